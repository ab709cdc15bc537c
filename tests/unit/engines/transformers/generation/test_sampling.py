"""How one row's tokens are drawn when it begins again."""

from __future__ import annotations

import pytest
import torch

from engines.transformers.generation.sampling import Sampling, TokenPicker


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


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-30, 1e-6])
@pytest.mark.parametrize("top_p", [0.0, 0.5, 1.0])
def test_a_temperature_near_zero_takes_the_likeliest_token(temperature: float, top_p: float) -> None:
    picker = TokenPicker(Sampling(do_sample=True, temperature=temperature, top_p=top_p, top_k=1000))
    scores = torch.tensor([-80.0, 90.0, 89.9])
    assert {picker.pick(scores, torch.tensor([1])) for _ in range(20)} == {1}
