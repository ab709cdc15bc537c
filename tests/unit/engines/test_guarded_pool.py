"""Pools whose threads are replaced when they hang: who is told what, and who gets whose place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from engines.guard import GivenUp, Guard
from engines.guarded_call import was_left
from engines.guarded_pool import GuardedPool
from handlers.errors import Cancelled
from tests.processes import wait_until

BRIEF_S = 0.1
LONG_S = 600.0
PATIENCE_S = 60.0
HERE: ContextVar[str] = ContextVar("here", default="nowhere")


@pytest.fixture
def pool(guard: Guard, gate: threading.Event) -> Iterator[GuardedPool]:
    with GuardedPool(guard, 2, "pool") as made:
        yield made
        gate.set()


Stage = Callable[[], Any]


def hang(guard: Guard, gate: threading.Event, what: str = "a stage") -> Stage:
    return lambda: guard.call(what, BRIEF_S, gate.wait, is_stage=True)


def test_a_call_gives_what_it_returns_and_raises_what_it_raises(pool: GuardedPool) -> None:
    assert pool.submit(int, "21", base=3).result(PATIENCE_S) == 7

    def fail(kind: type[BaseException]) -> None:
        raise kind("mine")

    for kind in (KeyError, SystemExit, BaseException):
        with pytest.raises(kind, match="mine"):
            pool.submit(fail, kind).result(PATIENCE_S)


def test_a_call_has_the_context_of_its_caller_and_the_name_of_the_pool(pool: GuardedPool) -> None:
    HERE.set("there")
    assert pool.submit(HERE.get).result(PATIENCE_S) == "there"
    assert pool.submit(lambda: threading.current_thread().name).result(PATIENCE_S) == "pool"


def test_stages_run_in_the_thread_of_the_call_which_may_be_silent_in_between(guard: Guard, pool: GuardedPool) -> None:
    def call() -> bool:
        here = threading.get_ident()
        ran = [guard.call("x", BRIEF_S, threading.get_ident, is_stage=True)]
        wait_until(lambda: time.monotonic() > began + 5 * BRIEF_S)
        ran.append(guard.call("x", BRIEF_S, threading.get_ident, is_stage=True))
        return ran == [here, here]

    began = time.monotonic()
    assert pool.submit(call).result(PATIENCE_S)
    assert guard.timeouts == 0


def test_no_more_calls_run_at_once_than_there_is_room_for(pool: GuardedPool) -> None:
    running, most, ends = [0], [0], threading.Semaphore(0)
    lock = threading.Lock()

    def call() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        assert ends.acquire(timeout=PATIENCE_S)
        with lock:
            running[0] -= 1

    calls = [pool.submit(call) for _ in range(6)]
    assert wait_until(lambda: running[0] == 2)
    for _ in calls:
        ends.release()
    for one in calls:
        one.result(PATIENCE_S)
    assert most == [2]


@pytest.mark.logs_errors("call_stuck")
def test_one_that_hangs_is_given_up_and_another_one_takes_each_place(
    guard: Guard, pool: GuardedPool, gate: threading.Event
) -> None:
    hung = [pool.submit(hang(guard, gate, "a stage")) for _ in range(2)]
    behind = [pool.submit(abs, n) for n in range(3)]
    for one in hung:
        with pytest.raises(GivenUp, match="a stage did not respond"):
            one.result(PATIENCE_S)
    assert [one.result(PATIENCE_S) for one in behind] == [0, 1, 2]
    assert guard.stuck == ["a stage", "a stage"]
    gate.set()
    assert wait_until(lambda: guard.stuck == [])
    assert guard.timeouts == 2


@pytest.mark.logs_errors("call_stuck")
def test_what_comes_late_is_dropped_and_no_other_stage_begins(
    guard: Guard, pool: GuardedPool, gate: threading.Event
) -> None:
    told: list[Any] = []
    ended: list[Any] = []

    def call() -> None:
        try:
            guard.call("first", BRIEF_S, gate.wait, given_up=told.append, is_stage=True)
        except Cancelled:
            ended.append(was_left())
        try:
            guard.call("second", BRIEF_S, lambda: told.append("second"), is_stage=True)
        except Cancelled as error:
            ended.append(error)

    future = pool.submit(call)
    with pytest.raises(GivenUp) as caught:
        future.result(PATIENCE_S)
    assert told == [caught.value]
    gate.set()
    assert wait_until(lambda: len(ended) == 2)
    assert ended[0] is True
    assert told == [caught.value]


@pytest.mark.logs_errors("call_stuck")
def test_a_stage_that_ends_as_it_is_given_up_does_either_and_never_both(guard: Guard) -> None:
    """`given_up` comes in time or not at all: what the call holds is still held during it."""
    outcomes = set[str]()
    brief_s = 0.02

    def call(given_up: list[object]) -> str:
        holds = [True]

        def give_up(error: object) -> None:
            given_up.append(error)
            assert holds[0], "the call went on"

        try:
            guard.call("x", brief_s, lambda: time.sleep(brief_s), given_up=give_up, is_stage=True)
        finally:
            holds[0] = False
        return "ended"

    with GuardedPool(guard, 4, "pool") as pool:
        for _ in range(25):
            given_up: list[list[object]] = [[] for _ in range(4)]
            for told, future in [(told, pool.submit(call, told)) for told in given_up]:
                error = future.exception(PATIENCE_S)
                assert told == ([] if error is None else [error])
                assert error is not None or future.result() == "ended"
                outcomes.add("ended" if error is None else "given up")
    assert outcomes
    assert wait_until(lambda: guard.stuck == [])


@pytest.mark.logs_errors("call_stuck")
def test_closing_waits_for_what_runs_or_waits_and_not_for_what_hangs(guard: Guard, gate: threading.Event) -> None:
    ends = threading.Event()
    with GuardedPool(guard, 2, "pool") as pool:
        hung = pool.submit(hang(guard, gate))
        slow = pool.submit(ends.wait)
        behind = pool.submit(lambda: 1)
        threading.Timer(3 * BRIEF_S, ends.set).start()
    assert isinstance(hung.exception(0), GivenUp)
    assert slow.result(0)
    assert behind.result(0) == 1
    assert guard.stuck == ["a stage"]
    with pytest.raises(RuntimeError, match="pool"):
        pool.submit(lambda: 1)


def test_a_call_that_is_cancelled_before_it_begins_does_not_run(pool: GuardedPool, gate: threading.Event) -> None:
    ran: list[int] = []
    for _ in range(2):
        pool.submit(gate.wait)
    first, second = (pool.submit(ran.append, n) for n in range(2))
    assert first.cancel()
    gate.set()
    second.result(PATIENCE_S)
    assert ran == [1]


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.logs_errors("call_stuck")
async def test_who_is_cancelled_leaves_a_running_call_that_still_ends_or_is_given_up(
    guard: Guard, pool: GuardedPool, gate: threading.Event, hangs: bool
) -> None:
    entered = asyncio.Event()
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))

    def call() -> None:
        loop.call_soon_threadsafe(entered.set)
        guard.call("x", BRIEF_S if hangs else LONG_S, gate.wait, is_stage=True)

    calling = asyncio.ensure_future(loop.run_in_executor(pool, call))
    async with asyncio.timeout(PATIENCE_S):
        await entered.wait()
        calling.cancel()
        if hangs:
            while not guard.stuck:
                await asyncio.sleep(0.01)
        else:
            gate.set()
        assert await loop.run_in_executor(pool, lambda: 7) == 7
    assert calling.cancelled()
    assert (guard.timeouts, faults) == (int(hangs), [])


def test_where_no_thread_can_be_started_whoever_waits_is_told(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with GuardedPool(guard, 1, "pool") as pool:
        with monkeypatch.context() as patch:
            patch.setattr("engines.guard.threading.Thread.start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                pool.submit(lambda: 1).result(0)
        assert pool.submit(lambda: 2).result(PATIENCE_S) == 2


def test_many_short_calls_of_many_threads_all_run_once_in_few_threads(guard: Guard) -> None:
    lock = threading.Lock()
    ran: list[int] = []

    def call(number: int) -> int:
        def stage() -> int:
            with lock:
                ran.append(number)
            return number

        return guard.call("x", LONG_S, stage, is_stage=True)

    before = threading.active_count()
    with GuardedPool(guard, 3, "pool") as pool, ThreadPoolExecutor(8) as callers:

        def ask(start: int) -> list[Future[int]]:
            return [pool.submit(call, number) for number in range(start, start + 100)]

        asked = [future for futures in callers.map(ask, range(0, 800, 100)) for future in futures]
        assert [future.result(PATIENCE_S) for future in asked] == list(range(800))
    assert sorted(ran) == list(range(800))
    assert threading.active_count() <= before + 3 + 1
    assert (guard.stuck, guard.timeouts) == ([], 0)


def test_a_shutdown_waits_and_cancels_only_where_it_is_asked_to(guard: Guard, gate: threading.Event) -> None:
    pool = GuardedPool(guard, 1, "pool")
    under_way, behind = (pool.submit(gate.wait) for _ in range(2))
    pool.shutdown(wait=False)
    assert not behind.done()
    pool.shutdown(wait=False, cancel_futures=True)
    assert behind.cancelled()
    assert not under_way.done()
    gate.set()
    pool.shutdown()
    assert under_way.done()
