"""Which way a request takes to its engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from engines.base import Emit
from engines.run.executor import Execution
from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher
from streams.pipeline.dispatcher import Dispatcher
from tests.unit.streams.pipeline.batching_rig import job, value_of


class Manager(Execution):
    """Starts requests; holds each start back until released where `gated`."""

    def __init__(self) -> None:
        self.started: dict[int, Future[Outcome]] = {}
        self.starting = 0
        self.most_starting = 0
        self.gate: threading.Event | None = None
        self.error: Exception | None = None

    def start(self, job: Job, emit: Emit | None = None) -> Future[Outcome]:
        self.starting += 1
        self.most_starting = max(self.most_starting, self.starting)
        if self.gate is not None:
            assert self.gate.wait(30)
        self.starting -= 1
        if self.error is not None:
            raise self.error
        self.started[value_of(job)] = Future()
        return self.started[value_of(job)]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def dispatcher(manager: Manager, threads: ThreadPoolExecutor) -> Dispatcher:
    def execute(batch: Any, early: Any) -> list[dict[str, Any]]:
        return [{"batch": len(batch), "value": value_of(one)} for one in batch]

    batcher = Batcher(execute, threads=lambda _: threads, max_items=2, max_wait_s=5.0)
    return Dispatcher(manager, batcher, lambda _: threads)


async def until_starting(manager: Manager) -> None:
    while not manager.starting:
        await asyncio.sleep(0)


async def until_started(manager: Manager, count: int) -> None:
    while len(manager.started) < count:
        await asyncio.sleep(0)


async def test_requests_of_other_tasks_share_a_batch(dispatcher: Dispatcher) -> None:
    both = await asyncio.gather(*(dispatcher.run(job(n, is_continuous=False)) for n in (1, 2)))
    assert both == [{"batch": 2, "value": 1}, {"batch": 2, "value": 2}]


async def test_requests_of_continuous_tasks_run_beside_each_other_and_end_in_any_order(
    dispatcher: Dispatcher, manager: Manager
) -> None:
    first = asyncio.create_task(dispatcher.run(job(1, is_continuous=True)))
    second = asyncio.create_task(dispatcher.run(job(2, is_continuous=True)))
    await until_started(manager, 2)
    manager.started[2].set_result({"value": 2})
    assert await second == {"value": 2}
    assert not first.done()
    manager.started[1].set_result({"value": 1})
    assert await first == {"value": 1}


async def test_a_caller_that_goes_away_cancels_its_own_request_alone(dispatcher: Dispatcher, manager: Manager) -> None:
    first = asyncio.create_task(dispatcher.run(job(1, is_continuous=True)))
    second = asyncio.create_task(dispatcher.run(job(2, is_continuous=True)))
    await until_started(manager, 2)
    first.cancel()
    await asyncio.wait([first])
    assert manager.started[1].cancelled()
    manager.started[2].set_result({"value": 2})
    assert await second == {"value": 2}


async def test_those_who_wait_for_one_model_hold_one_thread_only(dispatcher: Dispatcher, manager: Manager) -> None:
    manager.gate = threading.Event()
    waiting = [asyncio.create_task(dispatcher.run(job(n, is_continuous=True))) for n in range(6)]
    batch = await asyncio.gather(*(dispatcher.run(job(n, is_continuous=False)) for n in (7, 8)))
    assert len(batch) == 2
    manager.gate.set()
    await until_started(manager, 6)
    for started in manager.started.values():
        started.set_result({})
    await asyncio.gather(*waiting)
    assert manager.most_starting == 1


@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_a_caller_that_goes_away_while_its_model_loads_leaves_no_work_behind(
    dispatcher: Dispatcher, manager: Manager, by: str
) -> None:
    manager.gate = threading.Event()
    gone = asyncio.create_task(dispatcher.run(job(1, is_continuous=True)))
    await until_starting(manager)
    if by == "cancel":
        gone.cancel()
        await asyncio.wait([gone])
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await gone
    manager.gate.set()
    await until_started(manager, 1)
    while not manager.started[1].done():
        await asyncio.sleep(0)
    assert manager.started[1].cancelled()
    following = asyncio.create_task(dispatcher.run(job(2, is_continuous=True)))
    await until_started(manager, 2)
    manager.started[2].set_result({"value": 2})
    assert await following == {"value": 2}


async def test_callers_that_go_away_while_a_model_loads_free_no_thread_for_the_next_to_wait_in(
    dispatcher: Dispatcher, manager: Manager
) -> None:
    manager.gate = threading.Event()
    first, second, third = (asyncio.create_task(dispatcher.run(job(n, is_continuous=True))) for n in range(3))
    await until_starting(manager)
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    await asyncio.gather(*(dispatcher.run(job(n, is_continuous=False)) for n in (7, 8)))
    assert manager.starting == 1
    manager.gate.set()
    await until_started(manager, 2)
    manager.started[2].set_result({"value": 2})
    assert await third == {"value": 2}
    assert (sorted(manager.started), manager.most_starting) == ([0, 2], 1)


async def test_a_start_that_fails_after_its_caller_went_away_lets_the_next_one_try(
    dispatcher: Dispatcher, manager: Manager
) -> None:
    manager.gate, manager.error = threading.Event(), RuntimeError("no model")
    gone = asyncio.create_task(dispatcher.run(job(1, is_continuous=True)))
    await until_starting(manager)
    gone.cancel()
    await asyncio.wait([gone])
    manager.gate.set()
    with pytest.raises(RuntimeError, match="no model"):
        await dispatcher.run(job(2, is_continuous=True))
