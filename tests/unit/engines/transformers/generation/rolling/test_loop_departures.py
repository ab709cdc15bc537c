"""Requests that nobody waits for any more leave the running batch, and unloading ends them all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engines.transformers.generation.runner import TextGenerationRunner
from handlers.errors import Cancelled
from tests.unit.engines.transformers.generation.rolling.parts import (
    PATIENCE_S,
    Watched,
    alone,
    load,
    start,
    text,
)


def test_a_cancelled_row_leaves_and_its_neighbour_goes_on(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, watched = tiny
    watched.hold()
    stays, goes = start(runner, "a b c", 30), start(runner, "d e f", 30)
    watched.let(4)
    for _ in range(4):
        watched.arrived()
    assert goes.cancel()
    watched.go_on()
    assert text(stays) == alone(folder, "a b c", 30)
    assert watched.shapes[-1] == (1, 1)


def test_one_that_waits_and_is_cancelled_never_runs(folder: Path) -> None:
    runner, watched = load(folder, max_rows=1)
    watched.hold()
    first, second = start(runner, "a b", 3), start(runner, "c d e f", 3)
    assert second.cancel()
    watched.go_on()
    assert text(first) == alone(folder, "a b", 3)
    runner.close()
    assert all(shape[1] != 4 for shape in watched.shapes)


def test_a_long_prompt_that_nobody_waits_for_any_more_goes_in_no_further(folder: Path) -> None:
    runner, watched = load(folder, prefill_tokens=4)
    watched.hold()
    running = start(runner, "a b c", 30)
    watched.let(1)
    watched.arrived()
    long = start(runner, " ".join("defghijklmnopqrstuvwxyz"), 4)
    for _ in range(100):
        watched.arrived()
        if watched.shapes[-1] == (1, 4):
            break
        watched.let(1)
    assert watched.shapes[-1] == (1, 4)
    assert long.cancel()
    watched.go_on()
    assert text(running) == alone(folder, "a b c", 30)
    assert text(start(runner, "d e f", 5)) == alone(folder, "d e f", 5)
    assert watched.shapes.count((1, 4)) == 1
    runner.close()


def test_unloading_tells_whoever_still_waits(tiny: tuple[TextGenerationRunner, Watched]) -> None:
    runner, watched = tiny
    watched.hold()
    answers = [start(runner, "a b c", 30), start(runner, "d e", 30)]
    watched.arrived()
    watched.let(1)
    watched.arrived()
    watched.let(2)
    closing = threading.Thread(target=runner.close)
    closing.start()
    watched.go_on()
    closing.join(PATIENCE_S)
    for answer in answers:
        assert answer.done()
        error = answer.exception()
        assert error is None or isinstance(error, Cancelled)
    with pytest.raises(Cancelled, match="is being unloaded"):
        start(runner, "a", 2)


def test_unloading_does_not_wait_for_a_row_that_runs_alone_to_its_end(
    tiny: tuple[TextGenerationRunner, Watched],
) -> None:
    runner, watched = tiny
    watched.fault = lambda ids: ValueError("not together") if ids.shape[0] > 1 else None
    watched.hold()
    answers = [start(runner, prompt, 50) for prompt in ("a b c", "d e f")]
    loop, alone = runner.texts, 0
    while alone < 8:  # more than it takes to try each of them
        watched.let(1)
        watched.arrived()
        alone = alone + 1 if watched.shapes[-1] == (1, 1) else 0
    closing = threading.Thread(target=runner.close)
    closing.start()
    while not loop._closed:
        closing.join(0.001)
    watched.go_on()
    closing.join(PATIENCE_S)
    assert len(watched.shapes) < 30
    assert all(isinstance(answer.exception(PATIENCE_S), Cancelled) for answer in answers)
