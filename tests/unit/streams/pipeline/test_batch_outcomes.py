"""What callers see of their batch: each its own outcome, once, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.guard import GivenUp, Guard
from engines.guarded_pool import GuardedPool
from engines.run.job import Job, Outcome
from handlers.errors import Cancelled, InferenceError, InferenceFailed, InternalError
from streams.pipeline.batch_queue import BatchEntry
from streams.pipeline.batcher import Batcher
from tests.unit.streams.pipeline.batching_rig import (
    Early,
    Engine,
    Make,
    Turns,
    all_at_once,
    entered,
    job,
    queued,
    value_of,
)


@pytest.mark.logs_errors("batch_failed")
async def test_a_batch_that_fails_harms_no_other_of_its_turn() -> None:
    def run(batch: Sequence[Job]) -> Sequence[Outcome]:
        if value_of(batch[0]) == 4:
            raise ValueError("odd")
        return [{"value": value_of(one)} for one in batch]

    with Turns(1) as thread:
        batcher = Batcher(all_at_once(run), threads=lambda _: thread, max_items=4, max_wait_s=0.0, clock=lambda: 0.0)
        await batcher.submit(job(99))
        outcomes = await asyncio.gather(*(batcher.submit(job(n)) for n in range(12)))
        await batcher.close()
    assert [isinstance(outcome, InternalError) for outcome in outcomes] == [4 <= n < 8 for n in range(12)]
    assert thread.count == 2


async def test_one_bad_item_leaves_its_neighbours_their_answers(make: Make) -> None:
    def execute(batch: Sequence[Job]) -> Sequence[Outcome]:
        return [InferenceFailed("odd") if value_of(one) % 2 else {"value": value_of(one)} for one in batch]

    batcher = make(execute)
    outcomes = await asyncio.gather(*(batcher.submit(job(n)) for n in range(4)))
    assert [isinstance(outcome, InferenceFailed) for outcome in outcomes] == [False, True, False, True]


def raises(batch: Sequence[Job]) -> Sequence[Outcome]:
    raise RuntimeError("broken")


def returns_too_few(batch: Sequence[Job]) -> Sequence[Outcome]:
    return []


@pytest.mark.logs_errors("batch_failed")
@pytest.mark.parametrize("execute", [raises, returns_too_few])
async def test_an_engine_that_breaks_gives_every_item_of_the_batch_an_error(
    make: Make, execute: Callable[[Sequence[Job]], Sequence[Outcome]]
) -> None:
    outcomes = await asyncio.gather(*(make(execute).submit(job(n)) for n in range(2)))
    assert all(isinstance(outcome, InternalError) for outcome in outcomes)


async def test_a_caller_that_has_gone_is_left_out_of_the_batch(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    first = asyncio.create_task(batcher.submit(job(0)))
    await entered(engine)
    gone, stays = (asyncio.create_task(batcher.submit(job(n))) for n in (1, 2))
    while batcher.depth < 2:
        await asyncio.sleep(0)
    gone.cancel()
    engine.gate.release(2)
    await asyncio.gather(first, stays)
    assert engine.batches == [[0], [2]]


async def test_closing_cancels_what_waits_and_finishes_what_runs(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    running = asyncio.create_task(batcher.submit(job(0)))
    await entered(engine)
    waiting = asyncio.create_task(batcher.submit(job(1)))
    while batcher.depth < 1:
        await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    assert isinstance(await waiting, Cancelled)
    engine.gate.release()
    await closing
    assert await running == {"value": 0}


@pytest.mark.logs_errors("asyncio: the outcome of a request was not taken")
async def test_a_caller_whose_callback_fails_costs_its_neighbours_nothing(make: Make) -> None:
    batcher = make(Engine())

    class Failing(BatchEntry):
        def go_on(self, outcome: Outcome) -> None:
            raise RuntimeError("a fault of the caller")

    batcher.put(Failing(job(1)))
    assert await batcher.submit(job(2)) == {"value": 2}
    assert await batcher.submit(job(3)) == {"value": 3}


async def test_who_is_done_early_is_answered_while_the_batch_runs_and_only_once() -> None:
    rest = threading.Event()

    def execute(batch: Sequence[Job], early: Early) -> Sequence[Outcome]:
        early(batch[1], {"value": "early"})
        assert rest.wait(30)
        return [{"value": value_of(one)} for one in batch]

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher(execute, threads=lambda _: thread, max_items=2, max_wait_s=0.0)
        first, second = await queued(batcher, [job(0), job(1)])
        try:
            assert await asyncio.wait_for(second, 30) == {"value": "early"}
            assert not first.done()
        finally:
            rest.set()
        assert await first == {"value": 0}
        await batcher.close()


@pytest.mark.logs_errors("batch_failed")
async def test_who_was_answered_early_keeps_that_where_the_batch_breaks_off() -> None:
    def execute(batch: Sequence[Job], early: Early) -> Sequence[Outcome]:
        early(batch[0], {"value": "early"})
        raise InferenceFailed("the rest does not fit")

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher(execute, threads=lambda _: thread, max_items=2, max_wait_s=0.0)
        first, second = await asyncio.gather(*await queued(batcher, [job(0), job(1)]))
        await batcher.close()
    assert first == {"value": "early"}
    assert isinstance(second, InferenceFailed)


@pytest.mark.parametrize("hangs", [0, 1, 3])
@pytest.mark.logs_errors("call_stuck")
async def test_where_one_batch_of_a_turn_hangs_the_others_run_once_and_all_are_answered(hangs: int) -> None:
    guard, gate = Guard(), threading.Event()
    ran: list[int] = []

    def execute(batch: Sequence[Job], early: Early) -> Sequence[Outcome]:
        value = value_of(batch[0])
        ran.append(value)

        def infer() -> Sequence[Outcome]:
            if value == hangs:
                early(batch[0], {"value": "early"})
                gate.wait()
            return [{"value": value_of(one)} for one in batch]

        try:
            return guard.call("model", 0.1, infer, is_stage=True)
        except InferenceError as error:
            return [error] * len(batch)

    with GuardedPool(guard, 2, "run") as pool:
        batcher = Batcher(execute, threads=lambda _: pool, max_items=2, max_wait_s=0.0, clock=lambda: 0.0)
        await batcher.submit(job(9))  # in no time at all: four batches make a turn
        jobs = [job(n, batch_key=str(n)) for n in range(4)]
        twins = await queued(batcher, [*jobs, job(hangs, batch_key=str(hangs))])
        answers = await asyncio.wait_for(asyncio.gather(*twins), 30)
        gate.set()
        while guard.stuck:
            await asyncio.sleep(0.01)
        await batcher.close()
    guard.close()
    assert sorted(ran) == [0, 1, 2, 3, 9]
    assert isinstance(answers.pop(), GivenUp)
    assert answers == [{"value": "early" if n == hangs else n} for n in range(4)]
