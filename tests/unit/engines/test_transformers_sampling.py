"""How one row's tokens are drawn when it begins again."""

from __future__ import annotations

import pytest
import torch

from engines.transformers.sampling import Sampling, TokenPicker


@pytest.mark.parametrize("seed", [None, 7])
def test_a_row_that_begins_again_draws_what_its_listener_has_heard_already(seed: int | None) -> None:
    picker = TokenPicker(Sampling(do_sample=True, seed=seed))
    scores, seen = torch.zeros(1000), torch.tensor([1])
    drawn = [picker.pick(scores, seen) for _ in range(5)]
    picker.start_again()
    assert [picker.pick(scores, seen) for _ in range(5)] == drawn


def test_rows_without_a_seed_draw_differently() -> None:
    scores, seen = torch.zeros(1000), torch.tensor([1])
    first, second = (TokenPicker(Sampling(do_sample=True)) for _ in range(2))
    assert [first.pick(scores, seen) for _ in range(8)] != [second.pick(scores, seen) for _ in range(8)]
