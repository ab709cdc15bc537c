"""Small batches for what cannot join a running one: which rows share one, and who pays for a fault."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from engines.base import told_of_waiting
from engines.transformers.generation.cache_sizes import CacheSizes, Limits
from engines.transformers.generation.micro_batches import SOURCE, MicroBatchLoop, OnStep
from engines.transformers.generation.sampling import Sampling, TokenPicker
from engines.transformers.generation.token_sequence import TokenSequence
from handlers.errors import Cancelled, InferenceFailed
from tests.unit.engines.tiny_models import WORDS, tokenizer

PATIENCE_S = 60.0
LETTER = WORDS.index("a")


def row(budget: int, *, reads: int = 0, beams: dict[str, Any] | None = None) -> TokenSequence:
    return TokenSequence(
        [LETTER],
        tokenizer=tokenizer(chat=False),
        ends=frozenset({2}),
        budget=budget,
        stop=(),
        picker=TokenPicker(Sampling()),
        extras={SOURCE: torch.zeros((1, reads), dtype=torch.int64)} if reads else {},
        beams=beams or {},
    )


class Model:
    """Grows every row by the same letter; keeps the batches, holds back and fails as told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.searched: list[Mapping[str, Any]] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.poison: int | None = None
        self.fault: BaseException = ValueError("bad row")
        self.most_rows = 100
        self.most_tokens = math.inf

    def generate(self, rows: Sequence[TokenSequence], on_step: OnStep) -> None:
        if rows[0].beams:
            self.searched.append(rows[0].beams)
        self.batches.append([one.budget for one in rows])
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        longest = max(len(one.prompt) + one.budget for one in rows)
        if len(rows) > self.most_rows or longest * len(rows) > self.most_tokens:
            raise torch.OutOfMemoryError("no room")
        if any(one.budget == self.poison for one in rows):
            raise self.fault
        while any(one.finish_reason is None for one in rows):
            for one in rows:
                one.accept(LETTER)
            on_step()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def max_bytes() -> int:
    return 2**30


@pytest.fixture
def max_rows() -> int:
    return 2


@pytest.fixture
def sizes() -> CacheSizes:
    return CacheSizes(of_a_token=1)


@pytest.fixture
def loop(model: Model, clock: Clock, max_rows: int, max_bytes: int, sizes: CacheSizes) -> Iterator[MicroBatchLoop]:
    loop = MicroBatchLoop(
        "tiny",
        model.generate,
        Limits(max_rows, max_bytes, prefill_tokens=256),
        lambda done: {"tokens": len(done.tokens), "finish_reason": done.finish_reason},
        sizes,
        clock,
    )
    yield loop
    model.gate.set()
    loop.close()


def held(loop: MicroBatchLoop, model: Model) -> Future[dict[str, Any]]:
    """Start a row that keeps the loop busy until the gate opens, so that what follows gathers."""
    first = loop.submit(row(1))
    assert model.entered.acquire(timeout=PATIENCE_S)
    return first


def tokens(answer: Future[dict[str, Any]]) -> int:
    count: int = answer.result(PATIENCE_S)["tokens"]
    return count


def test_a_row_has_begun_when_its_batch_is_next(loop: MicroBatchLoop, model: Model) -> None:
    begun: list[int] = []

    def asked(budget: int) -> Future[dict[str, Any]]:
        with told_of_waiting(lambda: lambda: begun.append(budget)):
            return loop.submit(row(budget))

    first = held(loop, model)
    answers = [asked(budget) for budget in (2, 3, 40)]
    assert begun == []
    model.gate.set()
    assert [tokens(one) for one in (first, *answers)] == [1, 2, 3, 40]
    assert begun == [2, 3, 40]


def test_rows_of_like_budgets_share_a_batch_the_shortest_first(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    answers = [loop.submit(row(budget)) for budget in (40, 4, 30, 3)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [40, 4, 30, 3]
    assert model.batches == [[1], [3, 4], [30, 40]]


@pytest.mark.parametrize("max_bytes", [60])
def test_a_batch_keeps_within_the_memory_for_its_cache_and_one_row_always_runs(
    loop: MicroBatchLoop, model: Model
) -> None:
    held(loop, model)
    answers = [loop.submit(row(budget)) for budget in (28, 29, 30, 70, 71)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [28, 29, 30, 70, 71]
    assert model.batches == [[1], [28, 29], [30], [70], [71]]


@pytest.mark.parametrize(("max_bytes", "sizes"), [(60, CacheSizes(of_a_token=0, of_windows=((1, 30),)))])
def test_what_a_window_forgets_takes_no_memory(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    answers = [loop.submit(row(budget)) for budget in (70, 71)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [70, 71]
    assert model.batches == [[1], [70, 71]]


def test_the_most_urgent_go_before_shorter_ones(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    answers = [loop.submit(row(budget)) for budget in (2, 3)]
    answers += [loop.submit(row(budget), urgency=(-9, math.inf)) for budget in (50, 60)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [2, 3, 50, 60]
    assert model.batches == [[1], [50, 60], [2, 3]]


def test_one_that_has_waited_long_goes_before_shorter_ones(loop: MicroBatchLoop, model: Model, clock: Clock) -> None:
    held(loop, model)
    answers = [loop.submit(row(100))]
    clock.now = 60.0
    answers += [loop.submit(row(budget)) for budget in (5, 6)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [100, 5, 6]
    assert model.batches == [[1], [100, 5], [6]]


def test_a_row_that_is_done_is_answered_while_its_neighbours_grow(loop: MicroBatchLoop, model: Model) -> None:
    order: list[int] = []
    held(loop, model)
    for budget in (50, 2):
        loop.submit(row(budget)).add_done_callback(lambda done: order.append(done.result()["tokens"]))
    model.gate.set()
    loop.submit(row(51)).result(PATIENCE_S)
    assert order == [2, 50]


def test_beams_run_alone_with_their_options(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    answers = [loop.submit(row(3)), loop.submit(row(3, beams={"num_beams": 4})), loop.submit(row(3))]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [3, 3, 3]
    assert model.searched == [{"num_beams": 4}]
    assert model.batches == [[1], [3, 3], [3]]


def test_a_cancelled_row_ends_where_it_is(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    gone, stays = loop.submit(row(10_000)), loop.submit(row(5))
    assert gone.cancel()
    model.gate.set()
    assert tokens(stays) == 5
    assert model.batches == [[1], [5]]


@pytest.mark.parametrize("kind", [ValueError, BaseException, SystemExit, asyncio.CancelledError])
def test_a_batch_that_fails_is_cut_in_two_until_the_culprit_is_found(
    loop: MicroBatchLoop, model: Model, kind: type[BaseException]
) -> None:
    model.poison, model.fault = 7, kind("bad row")
    held(loop, model)
    good, bad = loop.submit(row(6)), loop.submit(row(7))
    model.gate.set()
    assert tokens(good) == 6
    with pytest.raises(InferenceFailed, match="bad row"):
        bad.result(PATIENCE_S)
    assert model.batches == [[1], [6, 7], [6], [7]]


@pytest.mark.logs_errors("answer_not_made")
def test_an_answer_that_cannot_be_made_is_an_error_of_its_own_request_alone(model: Model) -> None:
    def result_of(done: TokenSequence) -> dict[str, Any]:
        if len(done.tokens) == 5:
            raise IndexError("piece id is out of range")
        return {"tokens": len(done.tokens)}

    limits, sizes = Limits(2, 2**30, prefill_tokens=256), CacheSizes(of_a_token=1)
    loop = MicroBatchLoop("tiny", model.generate, limits, result_of, sizes)
    held(loop, model)
    bad, good = loop.submit(row(5)), loop.submit(row(6))
    model.gate.set()
    with pytest.raises(InferenceFailed, match="piece id is out of range"):
        bad.result(PATIENCE_S)
    assert tokens(good) == 6
    assert tokens(loop.submit(row(7))) == 7
    assert model.batches == [[1], [5, 6], [7]]
    loop.close()


def test_a_batch_that_does_not_fit_bounds_the_next_ones(loop: MicroBatchLoop, model: Model) -> None:
    model.most_rows = 1
    held(loop, model)
    answers = [loop.submit(row(budget)) for budget in (5, 6, 7)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [5, 6, 7]
    assert model.batches == [[1], [5, 6], [5], [6], [7]]


@pytest.mark.parametrize("max_rows", [4])
def test_after_long_rows_did_not_fit_as_many_short_ones_run_together_as_before(
    loop: MicroBatchLoop, model: Model
) -> None:
    model.most_tokens = 100
    held(loop, model)
    answers = [loop.submit(row(budget)) for budget in (39, 39, 39, 39)]
    short = [loop.submit(row(budget), urgency=(9, math.inf)) for budget in (9, 9, 9, 9)]
    model.gate.set()
    assert [tokens(answer) for answer in (*answers, *short)] == [39] * 4 + [9] * 4
    assert model.batches == [[1], [39] * 4, [39] * 2, [39] * 2, [9] * 4]


@pytest.mark.parametrize(("max_rows", "max_bytes"), [(9, 100)])
def test_what_an_encoder_reads_counts_as_long_as_the_longest(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    answers = [loop.submit(row(9, reads=reads)) for reads in (5, 40, 40, 30)]
    model.gate.set()
    assert [tokens(answer) for answer in answers] == [9] * 4
    assert model.batches == [[1], [9, 9], [9, 9]]


def test_memory_that_a_failed_batch_held_is_free_before_the_next_one_runs(
    loop: MicroBatchLoop, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tensor:
        """Stands for one that only the collector of garbage frees, as it refers to itself."""

        def __init__(self) -> None:
            self.itself = self

    generate, made, alive = model.generate, list[weakref.ref[Tensor]](), list[bool]()

    def hungry(rows: Sequence[TokenSequence], on_step: OnStep) -> None:
        alive.extend(one() is not None for one in made)
        if len(rows) > 1:
            tensor = Tensor()
            made.append(weakref.ref(tensor))
        generate(rows, on_step)

    model.most_rows = 1
    monkeypatch.setattr(loop, "_generate", hungry)
    held(loop, model)
    gc.disable()
    try:
        answers = [loop.submit(row(budget)) for budget in (5, 6)]
        model.gate.set()
        assert [tokens(answer) for answer in answers] == [5, 6]
    finally:
        gc.enable()
    assert alive == [False, False]


def test_closing_tells_those_who_wait(loop: MicroBatchLoop, model: Model) -> None:
    held(loop, model)
    waiting = loop.submit(row(5))
    closing = threading.Thread(target=loop.close)
    closing.start()
    while not loop._closed:
        pass
    model.gate.set()
    closing.join(PATIENCE_S)
    with pytest.raises(Cancelled):
        waiting.result(PATIENCE_S)
