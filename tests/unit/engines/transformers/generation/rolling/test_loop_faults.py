"""Who pays for a fault in the running batch: only the request at fault."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path

import pytest
import torch

from engines.transformers.generation.runner import TextGenerationRunner
from handlers.errors import InferenceFailed
from tests.unit.engines.transformers.generation.rolling.parts import (
    BUDGETS,
    PATIENCE_S,
    PROMPTS,
    Fault,
    Watched,
    alone,
    start,
    text,
)


def fails_on_prompts_with(runner: TextGenerationRunner, word: str) -> Fault:
    """Return a fault of runs with a prompt that has `word` among its first three; a generated one does no harm."""
    token = runner.tokenizer.convert_tokens_to_ids(word)

    def fault(ids: torch.Tensor) -> Exception | None:
        begins_with_it = ids.shape[1] > 1 and token in ids[:, :3].flatten().tolist()
        return ValueError("bad token") if begins_with_it else None

    return fault


def test_only_the_row_that_the_model_fails_on_fails(tiny: tuple[TextGenerationRunner, Watched], folder: Path) -> None:
    runner, watched = tiny
    watched.fault = fails_on_prompts_with(runner, "z")
    watched.hold()
    good = [start(runner, "a b c", 12), start(runner, "d e f", 9)]
    bad = start(runner, "z b c", 5)
    watched.go_on()
    assert [text(answer) for answer in good] == [alone(folder, "a b c", 12), alone(folder, "d e f", 9)]
    with pytest.raises(InferenceFailed, match="bad token"):
        bad.result(PATIENCE_S)
    watched.fault = lambda ids: None
    assert text(start(runner, "g h", 4)) == alone(folder, "g h", 4)


def test_rows_that_proved_innocent_go_on_together(tiny: tuple[TextGenerationRunner, Watched], folder: Path) -> None:
    runner, watched = tiny
    watched.fault = fails_on_prompts_with(runner, "z")
    watched.hold()
    # The loop is busy with it until all others wait: they enter together, so none is a token ahead at the end.
    start(runner, "m n", 1)
    watched.arrived()
    prompts = ["a b c", "d e f", "g h i"]
    good = [start(runner, prompt, 20) for prompt in prompts]
    bad = start(runner, "z b c", 20)
    watched.go_on()
    assert [text(answer) for answer in good] == [alone(folder, prompt, 20) for prompt in prompts]
    with pytest.raises(InferenceFailed, match="bad token"):
        bad.result(PATIENCE_S)
    steps = [rows for rows, columns in watched.shapes if columns == 1]
    assert steps.count(1) <= len(good), "each may take one step alone"
    assert steps.count(len(good)) >= 15


def test_rows_that_only_fail_in_company_are_answered(tiny: tuple[TextGenerationRunner, Watched], folder: Path) -> None:
    runner, watched = tiny
    watched.fault = lambda ids: ValueError("too many") if ids.shape[0] > 1 else None
    watched.hold()
    prompts = ["a b c", "d e f", "g h i"]
    answers = [start(runner, prompt, 20) for prompt in prompts]
    watched.go_on()
    assert [text(answer) for answer in answers] == [alone(folder, prompt, 20) for prompt in prompts]


def test_out_of_memory_halves_the_batch_and_every_row_is_answered(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, watched = tiny
    watched.fault = lambda ids: torch.OutOfMemoryError("no room") if ids.shape[0] > 2 else None
    watched.hold()
    answers = [start(runner, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    watched.go_on()
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)


def test_long_rows_that_ran_out_of_memory_together_do_so_once_and_short_ones_still_grow_together(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, watched = tiny
    refused: list[int] = []

    def fault(ids: torch.Tensor) -> Exception | None:
        if ids.numel() <= 4 * 30:
            return None
        refused.append(ids.numel())
        return torch.OutOfMemoryError("no room")

    def ask(prompts: Sequence[str]) -> None:
        watched.hold()
        running = start(runner, "m", 1)
        watched.arrived()
        answers = [start(runner, prompt, 4) for prompt in prompts]
        watched.go_on()
        assert [text(answer) for answer in answers] == [alone(folder, prompt, 4) for prompt in prompts]
        wait([running], PATIENCE_S)

    watched.fault = fault
    long = [" ".join([letter] * 40) for letter in "abcd"]
    ask(long)
    ask(long)
    assert len(refused) == 1, "the bound is remembered"
    watched.shapes.clear()
    ask(list("abcdefgh"))
    assert max(rows for rows, _ in watched.shapes) == 8


@pytest.mark.logs_errors("emit_failed")
def test_a_listener_that_fails_costs_nobody_an_answer(tiny: tuple[TextGenerationRunner, Watched], folder: Path) -> None:
    def broken(piece: str) -> None:
        raise RuntimeError("nobody listens")

    runner, _ = tiny
    answer = runner.submit({"inputs": "a b c"}, {"max_new_tokens": 6}, broken)
    assert text(answer) == alone(folder, "a b c", 6)


def test_a_neighbour_whose_draw_fails_leaves_a_seeded_answer_as_it_is(
    tiny: tuple[TextGenerationRunner, Watched],
) -> None:
    runner, watched = tiny
    drawn = {"do_sample": True, "seed": 7}
    by_itself = text(start(runner, "a b c", 12, **drawn))
    bad = runner.prepare({"inputs": "a b c"}, {"max_new_tokens": 12, **drawn})
    pick, picks = bad.picker.pick, itertools.count(1)

    def fail_from_the_fourth_on(scores: torch.Tensor, seen: torch.Tensor) -> int:
        if next(picks) >= 4:
            raise RuntimeError("probability tensor contains nan")
        return pick(scores, seen)

    bad.picker.pick = fail_from_the_fourth_on  # type: ignore[method-assign]
    watched.hold()
    good = [start(runner, "a b c", 12, **drawn)]
    failing = runner.texts.submit(bad)
    good += [start(runner, "a b c", 12, **drawn)]
    watched.go_on()
    with pytest.raises(InferenceFailed, match="contains nan"):
        failing.result(PATIENCE_S)
    assert [text(answer) for answer in good] == [by_itself] * 2
