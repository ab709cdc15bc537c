"""Micro-batches: who shares one, when it leaves, and what a caller sees."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from handlers.errors import Cancelled, InferenceFailed, InternalError
from streams.pipeline.batch_queue import Outcome, Raw
from streams.pipeline.batcher import Batcher


@dataclass(frozen=True)
class Item:
    value: int
    lane_key: str = "model"
    batch_key: str = "same"
    urgency: tuple[float, float] = (0.0, 0.0)
    cost: float = 0.0
    most_cost: float = math.inf


class Engine:
    """Records the batches it was given; holds each one back until released when `gated`."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(0) if gated else None
        self.entered = threading.Semaphore(0)

    def __call__(self, batch: Sequence[Item]) -> Sequence[Raw]:
        self.batches.append([item.value for item in batch])
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        return [{"value": item.value} for item in batch]


Make = Callable[..., Batcher[Item]]
Execute = Callable[[Sequence[Item], Callable[[Item, Raw], None]], Sequence[Raw]]


def all_at_once(execute: Callable[[Sequence[Item]], Sequence[Raw]]) -> Execute:
    """Return what answers nobody early."""
    return lambda batch, early: execute(batch)


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    batchers: list[Batcher[Item]] = []
    with ThreadPoolExecutor(4) as pool:

        def build(execute: Callable[[Sequence[Item]], Sequence[Raw]], **options: Any) -> Batcher[Item]:
            asked = {"max_items": 4, "max_wait_s": 0.01} | options
            batcher = Batcher(all_at_once(execute), threads=lambda _: pool, **asked)
            batchers.append(batcher)
            return batcher

        yield build
        for batcher in batchers:
            await batcher.close()


async def entered(engine: Engine) -> None:
    assert await asyncio.to_thread(engine.entered.acquire, timeout=30)


async def test_requests_that_arrive_together_share_a_batch(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=5.0)
    outcomes = await asyncio.gather(*(batcher.submit(Item(n)) for n in range(4)))
    assert engine.batches == [[0, 1, 2, 3]]
    assert [raw for raw, _ in outcomes] == [{"value": n} for n in range(4)]


async def test_a_lone_request_does_not_wait_for_company_that_is_not_coming(make: Make) -> None:
    async with asyncio.timeout(30):
        raw, _ = await make(Engine(), max_wait_s=3600.0).submit(Item(1))
    assert raw == {"value": 1}


async def test_a_batch_waits_for_requests_that_are_coming(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=3600.0)
    with batcher.coming("model"):
        first = asyncio.create_task(batcher.submit(Item(1)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.batches == []
    await asyncio.gather(first, batcher.submit(Item(2)))
    assert engine.batches == [[1, 2]]


async def test_a_batch_leaves_without_one_who_was_coming_and_never_came(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=3600.0)
    coming = batcher.coming("model")
    coming.__enter__()
    waiting = asyncio.create_task(batcher.submit(Item(1)))
    await asyncio.sleep(0)
    coming.__exit__(None, None, None)
    await waiting
    assert engine.batches == [[1]]


async def test_a_request_does_not_wait_for_those_who_are_coming_longer_than_allowed(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait_s=0.001)
    with batcher.coming("model"):
        await batcher.submit(Item(1))
    assert engine.batches == [[1]]


async def test_a_batch_of_a_model_that_takes_long_waits_longer_for_those_who_are_coming(make: Make) -> None:
    now = [0.0]
    engine = Engine()

    def slow(batch: Sequence[Item]) -> Sequence[Raw]:
        now[0] += 36_000.0
        return engine(batch)

    batcher = make(slow, max_wait_s=0.0, clock=lambda: now[0])
    await batcher.submit(Item(0))
    with batcher.coming("model"):
        first = asyncio.create_task(batcher.submit(Item(1)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.batches == [[0]]
    await asyncio.gather(first, batcher.submit(Item(2)))
    assert engine.batches == [[0], [1, 2]]


async def test_nobody_waits_for_requests_that_are_coming_to_another_model(make: Make) -> None:
    batcher = make(Engine(), max_wait_s=3600.0)
    with batcher.coming("another"):
        async with asyncio.timeout(30):
            await batcher.submit(Item(1))


async def test_a_full_batch_does_not_wait_for_those_who_are_coming(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_items=2, max_wait_s=3600.0)
    with batcher.coming("model"):
        await asyncio.gather(batcher.submit(Item(1)), batcher.submit(Item(2)))
    assert engine.batches == [[1, 2]]


async def queued(batcher: Batcher[Item], items: Sequence[Item]) -> list[asyncio.Task[Outcome]]:
    """Submit `items` one after the other and return once all of them wait."""
    waiting = [asyncio.create_task(batcher.submit(item)) for item in items]
    while batcher.depth < len(items):
        await asyncio.sleep(0)
    return waiting


async def order_of(make: Make, items: Sequence[Item], **options: Any) -> list[list[int]]:
    """Return the batches that are formed of `items`, all of which came while the model was busy."""
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0, **options)
    busy = asyncio.create_task(batcher.submit(Item(-1)))
    await entered(engine)
    waiting = await queued(batcher, items)
    engine.gate.release(1 + len(items))
    await asyncio.gather(busy, *waiting)
    return engine.batches[1:]


async def test_the_most_urgent_go_first_and_equals_in_the_order_in_which_they_came(make: Make) -> None:
    urgencies = [(0.0, 9.0), (-9.0, math.inf), (0.0, 5.0), (0.0, 5.0), (-9.0, 1.0)]
    items = [Item(n, urgency=urgency) for n, urgency in enumerate(urgencies)]
    assert await order_of(make, items, max_items=1) == [[4], [1], [2], [3], [0]]


async def test_the_most_urgent_request_decides_whose_batch_is_next(make: Make) -> None:
    items = [
        Item(0, batch_key="a"),
        Item(1, batch_key="a"),
        Item(2, batch_key="b"),
        Item(3, batch_key="b", urgency=(-1.0, 0.0)),
    ]
    assert await order_of(make, items) == [[3, 2], [0, 1]]


async def test_a_batch_takes_no_more_than_its_count_times_its_largest_cost_may_be(make: Make) -> None:
    costs = [1.0, 2.0, 3.0, 1.0, 1.0]
    items = [Item(n, cost=cost, most_cost=6.0) for n, cost in enumerate(costs)]
    # 0 and 1 cost 2 x 2; with 2 it would be 3 x 3. 2 and 3 cost 2 x 3, and 4 is left.
    assert await order_of(make, items, max_items=9) == [[0, 1], [2, 3], [4]]


async def test_a_request_that_costs_more_than_a_batch_may_runs_by_itself(make: Make) -> None:
    items = [Item(0, cost=50.0, most_cost=6.0), Item(1, cost=1.0, most_cost=6.0)]
    assert await order_of(make, items) == [[0], [1]]


async def test_a_batch_that_is_full_by_cost_does_not_wait_for_those_who_are_coming(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_items=9, max_wait_s=3600.0)
    with batcher.coming("model"):
        await asyncio.gather(*(batcher.submit(Item(n, cost=3.0, most_cost=6.0)) for n in range(2)))
    assert engine.batches == [[0, 1]]


async def test_what_arrives_while_the_model_works_gathers_for_the_next_batch(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    first = asyncio.create_task(batcher.submit(Item(0)))
    await entered(engine)
    rest = [asyncio.create_task(batcher.submit(Item(n))) for n in range(1, 4)]
    while batcher.depth < 3:
        await asyncio.sleep(0)
    engine.gate.release(2)
    await asyncio.gather(first, *rest)
    assert engine.batches == [[0], [1, 2, 3]]


async def test_a_batch_never_exceeds_the_cap(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_items=2)
    await asyncio.gather(*(batcher.submit(Item(n)) for n in range(5)))
    assert [len(batch) for batch in engine.batches] == [2, 2, 1]


class Turns(ThreadPoolExecutor):
    """Counts what is run in it."""

    count = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize(("batch_s", "turns"), [(0.0, 3), (0.0004, 4), (0.0007, 6)])
async def test_a_model_that_takes_microseconds_for_a_batch_runs_several_in_a_turn_of_its_thread(
    batch_s: float, turns: int
) -> None:
    now = [0.0]
    engine = Engine()

    def run(batch: Sequence[Item]) -> Sequence[Raw]:
        now[0] += batch_s
        return engine(batch)

    with Turns(1) as thread:
        batcher = Batcher(
            all_at_once(run), threads=lambda _: thread, max_items=4, max_wait_s=0.0, clock=lambda: now[0]
        )
        await batcher.submit(Item(0))  # nobody knows yet how long it takes
        outcomes = await asyncio.gather(*(batcher.submit(Item(n)) for n in range(1, 21)))
        await batcher.close()
    assert engine.batches == [[0], *([n, n + 1, n + 2, n + 3] for n in range(1, 21, 4))]
    assert [raw for raw, _ in outcomes] == [{"value": n} for n in range(1, 21)]
    assert thread.count == turns


@pytest.mark.logs_errors("batch_failed")
async def test_a_model_that_is_quick_for_once_is_not_taken_for_a_quick_one() -> None:
    now = [0.0]

    def run(batch: Sequence[Item]) -> Sequence[Raw]:
        if batch[0].value < 0:
            raise ValueError("refused at once")
        now[0] += 1.0
        return [{"value": item.value} for item in batch]

    with Turns(1) as thread:
        batcher = Batcher(
            all_at_once(run), threads=lambda _: thread, max_items=4, max_wait_s=0.0, clock=lambda: now[0]
        )
        await batcher.submit(Item(0))
        await batcher.submit(Item(-1))
        await asyncio.gather(*(batcher.submit(Item(n)) for n in range(12)))
        await batcher.close()
    assert thread.count == 5


@pytest.mark.logs_errors("batch_failed")
async def test_a_batch_that_fails_harms_no_other_of_its_turn() -> None:
    def run(batch: Sequence[Item]) -> Sequence[Raw]:
        if batch[0].value == 4:
            raise ValueError("odd")
        return [{"value": item.value} for item in batch]

    with Turns(1) as thread:
        batcher = Batcher(
            all_at_once(run), threads=lambda _: thread, max_items=4, max_wait_s=0.0, clock=lambda: 0.0
        )
        await batcher.submit(Item(99))
        outcomes = await asyncio.gather(*(batcher.submit(Item(n)) for n in range(12)))
        await batcher.close()
    assert [isinstance(raw, InternalError) for raw, _ in outcomes] == [4 <= n < 8 for n in range(12)]
    assert thread.count == 2


async def test_requests_whose_options_differ_do_not_share_a_batch(make: Make) -> None:
    engine = Engine()
    batcher = make(engine)
    keys = ["a", "b", "a", "b"]
    await asyncio.gather(*(batcher.submit(Item(n, batch_key=key)) for n, key in enumerate(keys)))
    assert engine.batches == [[0, 2], [1, 3]]


async def test_a_busy_model_does_not_hold_up_another(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    slow = asyncio.create_task(batcher.submit(Item(1, lane_key="slow")))
    await entered(engine)
    quick = asyncio.create_task(batcher.submit(Item(2, lane_key="quick")))
    await entered(engine)
    engine.gate.release(2)
    await asyncio.gather(slow, quick)


async def test_one_bad_item_leaves_its_neighbours_their_answers(make: Make) -> None:
    def execute(batch: Sequence[Item]) -> Sequence[Raw]:
        return [InferenceFailed("odd") if item.value % 2 else {"value": item.value} for item in batch]

    batcher = make(execute)
    outcomes = await asyncio.gather(*(batcher.submit(Item(n)) for n in range(4)))
    assert [isinstance(raw, InferenceFailed) for raw, _ in outcomes] == [False, True, False, True]


@pytest.mark.logs_errors("batch_failed")
async def test_an_engine_that_raises_gives_every_item_of_the_batch_an_error(make: Make) -> None:
    def execute(batch: Sequence[Item]) -> Sequence[Raw]:
        raise RuntimeError("broken")

    outcomes = await asyncio.gather(*(make(execute).submit(Item(n)) for n in range(2)))
    assert all(isinstance(raw, InternalError) for raw, _ in outcomes)


@pytest.mark.logs_errors("batch_failed")
async def test_an_engine_that_returns_too_few_outcomes_gives_an_error_not_a_hang(make: Make) -> None:
    def execute(batch: Sequence[Item]) -> Sequence[Raw]:
        return []

    outcomes = await asyncio.gather(*(make(execute).submit(Item(n)) for n in range(2)))
    assert all(isinstance(raw, InternalError) for raw, _ in outcomes)


async def test_a_caller_that_has_gone_is_left_out_of_the_batch(make: Make) -> None:
    engine = Engine(gated=True)
    assert engine.gate is not None
    batcher = make(engine, max_wait_s=0.0)
    first = asyncio.create_task(batcher.submit(Item(0)))
    await entered(engine)
    gone, stays = (asyncio.create_task(batcher.submit(Item(n))) for n in (1, 2))
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
    running = asyncio.create_task(batcher.submit(Item(0)))
    await entered(engine)
    waiting = asyncio.create_task(batcher.submit(Item(1)))
    while batcher.depth < 1:
        await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    assert isinstance((await waiting)[0], Cancelled)
    engine.gate.release()
    await closing
    assert (await running)[0] == {"value": 0}


@pytest.mark.logs_errors("asyncio: the outcome of a request was not taken")
async def test_a_caller_whose_callback_fails_costs_its_neighbours_nothing(make: Make) -> None:
    batcher = make(Engine())
    heard: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()

    def fail(raw: Raw, wait_s: float) -> None:
        raise RuntimeError("a fault of the caller")

    batcher.put(Item(1), fail)
    batcher.put(Item(2), lambda raw, wait_s: heard.set_result(raw))
    assert await heard == {"value": 2}
    assert (await batcher.submit(Item(3)))[0] == {"value": 3}


async def test_who_is_done_early_is_answered_while_the_batch_runs_and_only_once() -> None:
    rest = threading.Event()

    def execute(batch: Sequence[Item], early: Callable[[Item, Raw], None]) -> Sequence[Raw]:
        early(batch[1], {"value": "early"})
        assert rest.wait(30)
        return [{"value": item.value} for item in batch]

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher(execute, threads=lambda _: thread, max_items=2, max_wait_s=0.0)
        first, second = await queued(batcher, [Item(0), Item(1)])
        try:
            assert (await asyncio.wait_for(second, 30))[0] == {"value": "early"}
            assert not first.done()
        finally:
            rest.set()
        assert (await first)[0] == {"value": 0}
        await batcher.close()


@pytest.mark.logs_errors("batch_failed")
async def test_who_was_answered_early_keeps_that_where_the_batch_breaks_off() -> None:
    def execute(batch: Sequence[Item], early: Callable[[Item, Raw], None]) -> Sequence[Raw]:
        early(batch[0], {"value": "early"})
        raise InferenceFailed("the rest does not fit")

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher(execute, threads=lambda _: thread, max_items=2, max_wait_s=0.0)
        first, second = await asyncio.gather(*await queued(batcher, [Item(0), Item(1)]))
        await batcher.close()
    assert first[0] == {"value": "early"}
    assert isinstance(second[0], InferenceFailed)
