"""Requests that join and leave one running batch: whose tokens they get, who waits for whom, who pays for faults."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.transformers.rolling.loop import RollingLoop
from engines.transformers.text_generation import TextGenerationRunner
from handlers.errors import Cancelled, InferenceFailed, InvalidInput
from tests.unit.engines.rolling.parts import PATIENCE_S, Fault, Watched, alone, load
from tests.unit.engines.tiny_models import save_llama

PROMPTS = ["a b c", "d", "e f g h i j k l m n", "o p", "q r s t u", "v w x y z a b c d e f g"]
BUDGETS = [20, 3, 12, 30, 7, 16]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), chat=False)


@pytest.fixture
def tiny(folder: Path) -> Iterator[tuple[TextGenerationRunner, Watched]]:
    runner, watched = load(folder)
    yield runner, watched
    watched.go_on()
    runner.close()


def start(runner: TextGenerationRunner, prompt: str, budget: int, **options: Any) -> Future[dict[str, Any]]:
    return runner.submit({"inputs": prompt}, {"max_new_tokens": budget, **options})


def text(answer: Future[dict[str, Any]]) -> str:
    found: str = answer.result(PATIENCE_S)["generated_text"]
    return found


def test_rows_of_all_lengths_get_the_tokens_they_get_alone(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, _ = tiny
    answers = [start(runner, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)


def test_a_row_that_comes_later_joins_the_running_batch_and_a_short_one_leaves_it_first(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, watched = tiny
    watched.hold()
    long = start(runner, "a b c", 40)
    for _ in range(3):
        watched.let(1)
        watched.arrived()
    short = start(runner, "d e", 2)
    watched.go_on()
    assert text(short) == alone(folder, "d e", 2)
    assert not long.done() or len(watched.shapes) < 45
    assert text(long) == alone(folder, "a b c", 40)
    assert (2, 1) in watched.shapes


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


def test_a_long_prompt_goes_in_by_pieces_between_the_steps_of_the_others(folder: Path) -> None:
    runner, watched = load(folder, prefill_tokens=4)
    watched.hold()
    running = start(runner, "a b c", 30)
    watched.let(1)
    watched.arrived()
    prompt = " ".join("defghijklmnop")
    late = start(runner, prompt, 4)
    watched.go_on()
    assert text(late) == alone(folder, prompt, 4)
    assert text(running) == alone(folder, "a b c", 30)
    pieces = [index for index, shape in enumerate(watched.shapes) if shape[1] > 1]
    assert [watched.shapes[index][1] for index in pieces] == [3, 4, 4, 4]
    for before, after in pairwise(pieces[1:]):
        assert after - before == 2  # one step of the running row between two pieces
    runner.close()


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
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes
    runner, watched = load(folder, kv_cache_bytes=token * 30)
    answers = [start(runner, "a b c d", 20), start(runner, "e f g h", 20)]
    assert [text(answer) for answer in answers] == [
        alone(folder, "a b c d", 20),
        alone(folder, "e f g h", 20),
    ]
    assert max(rows for rows, _ in watched.shapes) == 1
    with pytest.raises(InvalidInput, match=r"need \d+ bytes of cache, transformers.kv_cache_bytes allows"):
        start(runner, "a b c d", 40)
    runner.close()


def test_the_cache_never_takes_more_than_the_settings_allow(folder: Path) -> None:
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, bytes
    runner, watched = load(folder, kv_cache_bytes=token * 100, prefill_tokens=4)
    held: list[int] = []

    def measure(ids: torch.Tensor) -> None:
        loop = runner._loops().texts
        assert isinstance(loop, RollingLoop)
        prefill = loop._prefill.cache.layers if loop._prefill else []
        layers: list[Any] = [*loop._batch.cache.blocks, *prefill]
        held.append(
            sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if layer.keys is not None)
        )

    watched.fault = measure
    answers = [start(runner, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)
    assert max(held) <= token * 100
    assert max(rows for rows, _ in watched.shapes) > 1
    runner.close()


def fails_on_prompts_with(runner: TextGenerationRunner, word: str) -> Fault:
    """Return a fault of runs with a prompt that has `word` among its first three; a generated one does no harm."""
    token = runner.tokenizer.convert_tokens_to_ids(word)

    def fault(ids: torch.Tensor) -> Exception | None:
        begins_with_it = ids.shape[1] > 1 and token in ids[:, :3].flatten().tolist()
        return ValueError("bad token") if begins_with_it else None

    return fault


def test_only_the_row_that_the_model_fails_on_fails(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
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


def test_rows_that_proved_innocent_go_on_together(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, watched = tiny
    watched.fault = fails_on_prompts_with(runner, "z")
    watched.hold()
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


def test_rows_that_only_fail_in_company_are_answered(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
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
    refused = [rows for rows, _ in watched.shapes if rows > 2]
    again = [start(runner, prompt, 5) for prompt in PROMPTS]
    wait(again, PATIENCE_S)
    assert [rows for rows, _ in watched.shapes if rows > 2] == refused  # the bound is remembered


def test_the_answer_is_heard_piece_by_piece(tiny: tuple[TextGenerationRunner, Watched]) -> None:
    runner, _ = tiny
    heard: list[str] = []
    answer = runner.submit({"inputs": "a b c"}, {"max_new_tokens": 12}, heard.append)
    assert "".join(heard if text(answer) else []) == text(answer)
    assert len(heard) > 1


def test_a_listener_that_fails_costs_nobody_an_answer(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    def broken(piece: str) -> None:
        raise RuntimeError("nobody listens")

    runner, _ = tiny
    answer = runner.submit({"inputs": "a b c"}, {"max_new_tokens": 6}, broken)
    assert text(answer) == alone(folder, "a b c", 6)


def test_seeds_draw_the_same_in_any_company(tiny: tuple[TextGenerationRunner, Watched]) -> None:
    runner, _ = tiny
    drawn = {"do_sample": True, "seed": 7, "temperature": 1.5}
    by_itself = text(start(runner, "a b c", 12, **drawn))
    company = [start(runner, prompt, 20, do_sample=True) for prompt in PROMPTS]
    assert text(start(runner, "a b c", 12, **drawn)) == by_itself
    wait(company, PATIENCE_S)


def test_a_neighbour_whose_draw_fails_leaves_a_seeded_answer_as_it_is(
    tiny: tuple[TextGenerationRunner, Watched],
) -> None:
    runner, watched = tiny
    drawn = {"do_sample": True, "seed": 7}
    by_itself = text(start(runner, "a b c", 12, **drawn))
    bad = runner._row({"inputs": "a b c"}, {"max_new_tokens": 12, **drawn})
    pick, picks = bad.picker.pick, itertools.count(1)

    def fail_from_the_fourth_on(scores: torch.Tensor, seen: torch.Tensor) -> int:
        if next(picks) >= 4:
            raise RuntimeError("probability tensor contains nan")
        return pick(scores, seen)

    bad.picker.pick = fail_from_the_fourth_on  # type: ignore[method-assign]
    watched.hold()
    good = [start(runner, "a b c", 12, **drawn)]
    failing = runner._loops().texts.submit(bad)
    good += [start(runner, "a b c", 12, **drawn)]
    watched.go_on()
    with pytest.raises(InferenceFailed, match="contains nan"):
        failing.result(PATIENCE_S)
    assert [text(answer) for answer in good] == [by_itself] * 2


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
