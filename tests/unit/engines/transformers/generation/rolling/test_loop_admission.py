"""Which of the waiting requests join the running batch: by places, by room in the cache, by urgency."""

from __future__ import annotations

import math
import random
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.base import told_of_waiting
from engines.transformers.generation.rolling.loop import RollingLoop
from handlers.errors import InvalidInput
from tests.unit.engines.transformers.generation.rolling.parts import (
    BUDGETS,
    PATIENCE_S,
    PROMPTS,
    Watched,
    alone,
    load,
    start,
    text,
)

pytestmark = pytest.mark.waits

TOKEN = 2 * 2 * 2 * 8 * 4
"""Bytes of cache of one token: keys and values, layers, heads, head size, bytes of a number."""


def test_rows_beyond_the_bound_wait_for_a_place(folder: Path) -> None:
    runner, watched = load(folder, max_rows=2)
    answers = [start(runner, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)
    assert max(rows for rows, _ in watched.shapes) == 2
    runner.close()


def test_rows_whose_cache_would_outgrow_the_memory_wait_and_one_that_never_fits_is_refused(
    folder: Path,
) -> None:
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 30)
    answers = [start(runner, "a b c d", 20), start(runner, "e f g h", 20)]
    assert [text(answer) for answer in answers] == [
        alone(folder, "a b c d", 20),
        alone(folder, "e f g h", 20),
    ]
    assert max(rows for rows, _ in watched.shapes) == 1
    with pytest.raises(InvalidInput, match=r"need \d+ bytes of cache, transformers.kv_cache_bytes allows"):
        start(runner, "a b c d", 40)
    runner.close()


def finished(answers: dict[str, Future[dict[str, Any]]]) -> list[str]:
    """Return a list that grows by the name of each answer as it comes."""
    order: list[str] = []
    for name, answer in answers.items():
        answer.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    return order


def test_a_short_answer_joins_beside_a_long_one_that_leaves_it_room_while_it_lasts(folder: Path) -> None:
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 50)
    watched.hold()
    long, short = start(runner, "a b c", 40), start(runner, "d e f", 5)
    watched.go_on()
    assert (text(long), text(short)) == (alone(folder, "a b c", 40), alone(folder, "d e f", 5))
    assert [rows for rows, columns in watched.shapes if columns == 1] == [2] * 4 + [1] * 35
    runner.close()


def test_a_small_one_passes_a_large_one_that_waits_for_room(folder: Path) -> None:
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 50)
    watched.hold()
    answers = {
        "running": start(runner, "a b c", 40),
        "large": start(runner, "d e f", 40),
        "small": start(runner, "g h i", 5),
    }
    order = finished(answers)
    watched.go_on()
    assert text(answers["large"]) == alone(folder, "d e f", 40)
    assert text(answers["small"]) == alone(folder, "g h i", 5)
    assert order == ["small", "running", "large"]
    runner.close()


def test_short_ones_are_answered_while_long_ones_that_fill_the_cache_run_and_wait(folder: Path) -> None:
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 90, max_rows=4)
    held = watch_memory(runner, watched)
    watched.hold()
    answers = {f"long {number}": start(runner, "a b c", 60) for number in range(3)}
    watched.let(44)  # by now two rows as wide as the long one have no room
    for _ in range(44):
        watched.arrived()
    answers |= {f"short {number}": start(runner, "d e f", 4) for number in range(20)}
    order = finished(answers)
    watched.go_on()
    wait(answers.values(), PATIENCE_S)
    assert order.index("long 0") >= 6, order
    assert max(held) <= TOKEN * 90
    for name, answer in answers.items():
        prompt, budget = ("a b c", 60) if name.startswith("long") else ("d e f", 4)
        assert text(answer) == alone(folder, prompt, budget)
    runner.close()


def test_one_of_lower_priority_passes_only_where_it_ends_before_the_other_has_room(folder: Path) -> None:
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 70)
    watched.hold()
    answers = {
        name: runner.submit({"inputs": "a b c"}, {"max_new_tokens": budget}, None, (priority, math.inf))
        for name, budget, priority in [
            ("running", 30, -9.0),
            ("large", 60, -7.0),
            ("lasts", 31, -5.0),
            ("short", 5, -5.0),
        ]
    }
    order = finished(answers)
    watched.go_on()
    wait(answers.values(), PATIENCE_S)
    assert order == ["short", "running", "large", "lasts"]
    runner.close()


def test_a_request_counts_as_begun_when_its_prompt_runs(folder: Path) -> None:
    runner, watched = load(folder, max_rows=1)
    begun: list[str] = []

    def asked(name: str) -> Future[dict[str, Any]]:
        with told_of_waiting(lambda: lambda: begun.append(name)):
            return start(runner, "a b c", 3)

    watched.hold()
    answers = [asked("first"), asked("second")]
    watched.arrived()
    assert begun == ["first"]
    watched.go_on()
    wait(answers, PATIENCE_S)
    assert begun == ["first", "second"]
    runner.close()


def watch_memory(runner: Any, watched: Watched) -> list[int]:
    """Return a list that grows by the bytes of cache that there are at each run of the model."""
    held: list[int] = []

    def measure(ids: torch.Tensor) -> None:
        loop = runner.texts
        assert isinstance(loop, RollingLoop)
        prefill = loop._prefill.cache.layers if loop._prefill else []
        blocks = [layer for batch in loop._batches._batches for layer in batch.cache.blocks]
        layers: list[Any] = [*blocks, *prefill]
        held.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if layer.keys is not None))

    watched.fault = measure
    return held


def test_the_cache_never_takes_more_than_the_settings_allow(folder: Path) -> None:
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 100, prefill_tokens=4)
    held = watch_memory(runner, watched)
    answers = [start(runner, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)
    assert max(held) <= TOKEN * 100
    assert max(rows for rows, _ in watched.shapes) > 1
    runner.close()


@pytest.mark.parametrize("seed", range(8))
def test_the_cache_keeps_its_bound_with_rows_of_all_kinds_that_come_end_early_and_are_cancelled(
    folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    runner, watched = load(folder, kv_cache_bytes=TOKEN * 66, prefill_tokens=chance.choice([3, 8, 64]))
    held = watch_memory(runner, watched)
    watched.hold()
    answers = []
    for _ in range(40):
        prompt = " ".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(1, 30)))
        stop = [chance.choice("abcdefgh")] if chance.random() < 0.3 else []
        answers.append(start(runner, prompt, chance.choice([1, 2, 8, 30]), stop=stop))
    for answer in chance.sample(answers, 5):
        answer.cancel()
    watched.let(chance.randint(0, 20))
    for answer in chance.sample(answers, 5):
        answer.cancel()
    watched.go_on()
    assert all(answer.cancelled() or answer.result(PATIENCE_S) for answer in answers)
    assert max(held) <= TOKEN * 66
    assert max(rows for rows, columns in watched.shapes if columns == 1) > 1
    runner.close()


def test_the_most_urgent_of_those_who_wait_joins_next(folder: Path) -> None:
    runner, watched = load(folder, max_rows=1)
    order: list[str] = []
    watched.hold()
    first = start(runner, "a b c", 4)
    watched.arrived()
    waiting = {
        name: runner.submit({"inputs": "d e"}, {"max_new_tokens": 2}, None, urgency)
        for name, urgency in [
            ("last", (-5.0, math.inf)),
            ("third", (-7.0, math.inf)),
            ("second", (-7.0, 10.0)),
            ("first", (-9.0, math.inf)),
        ]
    }
    for name, answer in waiting.items():
        answer.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    watched.go_on()
    wait([first, *waiting.values()], PATIENCE_S)
    runner.close()
    assert order == ["first", "second", "third", "last"]
