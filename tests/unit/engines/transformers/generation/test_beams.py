"""One batch of `generate`: what ends a search by beams before its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.engines.tiny_models import save_llama
from tests.unit.engines.transformers.generation.rolling.parts import PATIENCE_S, load


@pytest.mark.parametrize("batching", ["in-flight", "micro"])
def test_a_search_that_nobody_waits_for_any_more_ends_with_its_next_step(tmp_path: Path, batching: str) -> None:
    runner, watched = load(save_llama(tmp_path / "llama", chat=False), batching=batching)
    watched.hold()
    searching = runner.submit({"inputs": "a b c"}, {"max_new_tokens": 40, "num_beams": 3})
    watched.arrived()
    for _ in range(3):
        watched.let(1)
        watched.arrived()
    assert searching.cancel()
    watched.go_on()
    answer = runner.submit({"inputs": "a b c"}, {"max_new_tokens": 4, "num_beams": 3}).result(PATIENCE_S)
    runner.close()
    assert 1 <= answer["completion_tokens"] <= 4
    assert 4 < len(watched.shapes) <= 4 + 4
