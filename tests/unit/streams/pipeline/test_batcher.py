"""Micro-batches: who shares one, and when it leaves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from engines.priority_queue import PriorityQueue
from engines.run.job import Job, Outcome
from streams.pipeline.batch_queue import BatchEntry
from streams.pipeline.batcher import Batcher
from tests.unit.streams.pipeline.batching_rig import (
    Engine,
    Make,
    Turns,
    all_at_once,
    entered,
    job,
    key,
    queued,
    value_of,
)


async def test_requests_that_arrive_together_share_a_batch(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=5.0)
    outcomes = await asyncio.gather(*(batcher.submit(job(n)) for n in range(4)))
    assert engine.batches == [[0, 1, 2, 3]]
    assert outcomes == [{"value": n} for n in range(4)]


async def test_a_lone_request_does_not_wait_for_company_that_is_not_coming(make: Make) -> None:
    async with asyncio.timeout(30):
        outcome = await make(Engine(), max_wait_s=3600.0).submit(job(1))
    assert outcome == {"value": 1}


async def test_a_batch_waits_for_requests_that_are_coming(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=3600.0)
    with batcher.coming(key()):
        first = asyncio.create_task(batcher.submit(job(1)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.batches == []
    await asyncio.gather(first, batcher.submit(job(2)))
    assert engine.batches == [[1, 2]]


async def test_a_batch_leaves_without_one_who_was_coming_and_never_came(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=3600.0)
    coming = batcher.coming(key())
    coming.__enter__()
    waiting = asyncio.create_task(batcher.submit(job(1)))
    await asyncio.sleep(0)
    coming.__exit__(None, None, None)
    await waiting
    assert engine.batches == [[1]]


async def test_a_request_does_not_wait_for_those_who_are_coming_longer_than_allowed(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=0.001)
    with batcher.coming(key()):
        await batcher.submit(job(1))
    assert engine.batches == [[1]]


async def test_a_batch_of_a_model_that_takes_long_waits_longer_for_those_who_are_coming(make: Make) -> None:
    now = [0.0]
    engine = Engine()

    def slow(batch: Sequence[Job]) -> Sequence[Outcome]:
        now[0] += 36_000.0
        return engine(batch)

    batcher = make(slow, max_wait_s=0.0, clock=lambda: now[0])
    await batcher.submit(job(0))
    with batcher.coming(key()):
        first = asyncio.create_task(batcher.submit(job(1)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.batches == [[0]]
    await asyncio.gather(first, batcher.submit(job(2)))
    assert engine.batches == [[0], [1, 2]]


async def test_nobody_waits_for_requests_that_are_coming_to_another_model(make: Make) -> None:
    batcher = make(Engine(), max_wait_s=3600.0)
    with batcher.coming(key("another")):
        async with asyncio.timeout(30):
            await batcher.submit(job(1))


async def test_a_full_batch_does_not_wait_for_those_who_are_coming(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_items=2, max_wait_s=3600.0)
    with batcher.coming(key()):
        await asyncio.gather(batcher.submit(job(1)), batcher.submit(job(2)))
    assert engine.batches == [[1, 2]]


async def order_of(make: Make, jobs: Sequence[Job], **options: Any) -> list[list[int]]:
    """Return the batches that are formed of `jobs`, all of which came while the model was busy."""
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0, **options)
    busy = asyncio.create_task(batcher.submit(job(-1)))
    await entered(engine)
    waiting = await queued(batcher, jobs)
    engine.gate.release(1 + len(jobs))
    await asyncio.gather(busy, *waiting)
    return engine.batches[1:]


async def test_the_most_urgent_go_first_and_equals_in_the_order_in_which_they_came(make: Make) -> None:
    urgencies = [(0.0, 9.0), (-9.0, math.inf), (0.0, 5.0), (0.0, 5.0), (-9.0, 1.0)]
    jobs = [job(n, urgency=urgency) for n, urgency in enumerate(urgencies)]
    assert await order_of(make, jobs, max_items=1) == [[4], [1], [2], [3], [0]]


async def test_the_most_urgent_request_decides_whose_batch_is_next(make: Make) -> None:
    jobs = [
        job(0, batch_key="a"),
        job(1, batch_key="a"),
        job(2, batch_key="b"),
        job(3, batch_key="b", urgency=(-1.0, 0.0)),
    ]
    assert await order_of(make, jobs) == [[3, 2], [0, 1]]


async def test_a_batch_takes_no_more_than_its_count_times_its_largest_cost_may_be(make: Make) -> None:
    costs = [1.0, 2.0, 3.0, 1.0, 1.0]
    jobs = [job(n, cost=cost, most_cost=6.0) for n, cost in enumerate(costs)]
    # 0 and 1 cost 2 x 2; with 2 it would be 3 x 3. 2 and 3 cost 2 x 3, and 4 is left.
    assert await order_of(make, jobs, max_items=9) == [[0, 1], [2, 3], [4]]


async def test_a_request_that_costs_more_than_a_batch_may_runs_by_itself(make: Make) -> None:
    jobs = [job(0, cost=50.0, most_cost=6.0), job(1, cost=1.0, most_cost=6.0)]
    assert await order_of(make, jobs) == [[0], [1]]


async def test_a_batch_that_is_full_by_cost_does_not_wait_for_those_who_are_coming(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_items=9, max_wait_s=3600.0)
    with batcher.coming(key()):
        await asyncio.gather(*(batcher.submit(job(n, cost=3.0, most_cost=6.0)) for n in range(2)))
    assert engine.batches == [[0, 1]]


async def test_what_arrives_while_the_model_works_gathers_for_the_next_batch(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    first = asyncio.create_task(batcher.submit(job(0)))
    await entered(engine)
    rest = [asyncio.create_task(batcher.submit(job(n))) for n in range(1, 4)]
    while batcher.depth < 3:
        await asyncio.sleep(0)
    engine.gate.release(2)
    await asyncio.gather(first, *rest)
    assert engine.batches == [[0], [1, 2, 3]]


async def test_a_batch_never_exceeds_the_cap(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_items=2)
    await asyncio.gather(*(batcher.submit(job(n)) for n in range(5)))
    assert [len(batch) for batch in engine.batches] == [2, 2, 1]


@pytest.mark.parametrize(("batch_s", "turns"), [(0.0, 3), (0.0004, 4), (0.0007, 6)])
async def test_a_model_that_takes_microseconds_for_a_batch_runs_several_in_a_turn_of_its_thread(
    batch_s: float, turns: int
) -> None:
    now = [0.0]
    engine = Engine()

    def run(batch: Sequence[Job]) -> Sequence[Outcome]:
        now[0] += batch_s
        return engine(batch)

    with Turns(1) as thread:
        batcher = Batcher(all_at_once(run), threads=lambda _: thread, max_items=4, max_wait_s=0.0, clock=lambda: now[0])
        await batcher.submit(job(0))  # nobody knows yet how long it takes
        outcomes = await asyncio.gather(*(batcher.submit(job(n)) for n in range(1, 21)))
        await batcher.close()
    assert engine.batches == [[0], *([n, n + 1, n + 2, n + 3] for n in range(1, 21, 4))]
    assert outcomes == [{"value": n} for n in range(1, 21)]
    assert thread.count == turns


@pytest.mark.logs_errors("batch_failed")
async def test_a_model_that_is_quick_for_once_is_not_taken_for_a_quick_one() -> None:
    now = [0.0]

    def run(batch: Sequence[Job]) -> Sequence[Outcome]:
        if value_of(batch[0]) < 0:
            raise ValueError("refused at once")
        now[0] += 1.0
        return [{"value": value_of(one)} for one in batch]

    with Turns(1) as thread:
        batcher = Batcher(all_at_once(run), threads=lambda _: thread, max_items=4, max_wait_s=0.0, clock=lambda: now[0])
        await batcher.submit(job(0))
        await batcher.submit(job(-1))
        await asyncio.gather(*(batcher.submit(job(n)) for n in range(12)))
        await batcher.close()
    assert thread.count == 5


async def test_versions_that_come_and_go_leave_nothing_behind(make: Make) -> None:
    batcher = make(Engine(), max_wait_s=0.0)
    for version in range(2000):
        await batcher.submit(job(version, model=f"model/{version}"))
    kept = [value for value in vars(batcher).values() if isinstance(value, dict) and len(value) > 1000]
    assert kept == []
    assert batcher._speed_of.cache_info().currsize < 1000


async def test_requests_whose_options_differ_do_not_share_a_batch(make: Make) -> None:
    engine = Engine()
    batcher = make(engine)
    keys = ["a", "b", "a", "b"]
    await asyncio.gather(*(batcher.submit(job(n, batch_key=key)) for n, key in enumerate(keys)))
    assert engine.batches == [[0, 2], [1, 3]]


async def test_a_busy_model_does_not_hold_up_another(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    slow = asyncio.create_task(batcher.submit(job(1, model="slow")))
    await entered(engine)
    quick = asyncio.create_task(batcher.submit(job(2, model="quick")))
    await entered(engine)
    engine.gate.release(2)
    await asyncio.gather(slow, quick)


class Ignored(BatchEntry):
    def go_on(self, outcome: Outcome) -> None:
        """Have no use for it."""


async def test_another_thread_may_count_the_waiting_while_more_come(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of /metrics does; here they come between two steps of the count."""
    batcher = make(Engine())
    waiting = await queued(batcher, [job(0)])

    def length(queue: PriorityQueue[Any]) -> int:
        for more in (job(1, batch_key="other"), job(2, model="another")):
            batcher.put(Ignored(more))
        return len(queue._heap)

    with monkeypatch.context() as patched:
        patched.setattr(PriorityQueue, "__len__", length)
        assert batcher.depth == 1
    await asyncio.gather(*waiting)
