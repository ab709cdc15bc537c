"""Calls that can be left behind: what they give, when they are given up, and what follows their end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from engines.deadlines import Patience
from engines.guard import GivenUp, Guard, TooManyStuck
from engines.guarded_call import Awaited
from engines.lease import Lease
from handlers.errors import EngineUnavailable
from tests.processes import wait_until

BRIEF_S = 0.1
PATIENCE_S = 10.0
LONG_S = 600.0
HERE: ContextVar[str] = ContextVar("here", default="nowhere")


def test_a_call_gives_what_it_returns_and_raises_what_it_raises(guard: Guard) -> None:
    assert guard.call("x", LONG_S, lambda: 7) == 7
    for kind in (KeyError, SystemExit, BaseException):
        with pytest.raises(kind, match="mine"):
            guard.call("x", LONG_S, lambda kind=kind: (_ for _ in ()).throw(kind("mine")))  # type: ignore[misc]


def test_a_call_has_the_context_and_the_name_of_its_caller(guard: Guard) -> None:
    HERE.set("there")
    assert guard.call("x", LONG_S, HERE.get) == "there"
    assert guard.call("x", LONG_S, lambda: threading.current_thread().name) == threading.current_thread().name


@pytest.mark.logs_errors("call_stuck")
def test_a_call_that_hangs_is_given_up_and_counts_as_stuck_until_it_ends(guard: Guard, gate: threading.Event) -> None:
    released: list[int] = []
    lease = Lease(None, lambda: released.append(1))
    with pytest.raises(GivenUp, match="my model did not respond for"):
        guard.call("my model", BRIEF_S, gate.wait, holding=lease)
    assert guard.stuck == ["my model"]
    lease.release()
    assert released == [], "it is still in use"
    gate.set()
    assert wait_until(lambda: released == [1])
    assert wait_until(lambda: guard.stuck == [])
    assert guard.timeouts == 1


def test_a_sign_of_life_starts_the_clock_again(guard: Guard) -> None:
    ends = time.monotonic() + 5 * BRIEF_S

    def work() -> str:
        while time.monotonic() < ends:
            time.sleep(0.01)
        return "done"

    assert guard.call("x", BRIEF_S, work, alive_at=time.monotonic) == "done"


def test_what_a_failed_call_held_is_free_at_once(guard: Guard) -> None:
    class Tensor:
        pass

    held: list[Any] = []

    def fail() -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise ValueError("broken")

    gc.disable()
    try:
        with pytest.raises(ValueError, match="broken"):
            guard.call("x", LONG_S, fail)
        assert wait_until(lambda: held[0]() is None)
    finally:
        gc.enable()


def test_ctrl_c_leaves_a_call_behind_that_releases_what_it_uses_when_it_ends(
    guard: Guard, gate: threading.Event
) -> None:
    released: list[int] = []
    entered = threading.Event()

    def work() -> None:
        entered.set()
        gate.wait()

    def interrupt() -> None:
        entered.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    lease = Lease(None, lambda: released.append(1))
    with pytest.raises(KeyboardInterrupt):
        guard.call("x", LONG_S, work, holding=lease)
    lease.release()
    assert (released, guard.stuck) == ([], [])
    gate.set()
    assert wait_until(lambda: released == [1])


@pytest.mark.logs_errors("call_stuck")
def test_too_many_that_hang_are_told_once_and_refused(gate: threading.Event) -> None:
    told: list[Exception] = []
    guard = Guard(Patience(BRIEF_S), most_stuck=1, too_many=told.append)
    for number in range(3):
        with pytest.raises(GivenUp):
            guard.call(f"m{number}", BRIEF_S, gate.wait)
        if number == 0:
            guard.check()
    assert [type(one) for one in told] == [TooManyStuck]
    with pytest.raises(EngineUnavailable, match=r"too many calls hang in this process \(3: "):
        guard.check()
    gate.set()
    assert wait_until(lambda: guard.stuck == [])
    guard.check()
    guard.close()


@pytest.mark.logs_errors("call_stuck", "stuck_call_not_ended")
def test_whoever_waits_is_told_though_the_report_of_too_many_fails(gate: threading.Event) -> None:
    def fail(_: Exception) -> None:
        raise RuntimeError("the loop is closed")

    guard = Guard(most_stuck=0, too_many=fail)
    with ThreadPoolExecutor(1) as callers:
        hung = callers.submit(guard.call, "m", BRIEF_S, gate.wait)
        try:
            assert isinstance(hung.exception(PATIENCE_S), GivenUp)
        finally:
            gate.set()
    guard.close()


@pytest.mark.logs_errors("call_stuck", "last_sign_failed")
def test_signs_that_cannot_be_told_hide_nothing(guard: Guard, gate: threading.Event) -> None:
    def fail() -> float:
        raise OSError("no answer")

    given_up: list[str] = []
    follow(guard, Future(), given_up, of="answer", limit_s=BRIEF_S, alive_at=fail)
    with ThreadPoolExecutor(2) as callers:
        hung = [
            callers.submit(guard.call, what, BRIEF_S, gate.wait, alive_at=alive_at)
            for what, alive_at in (("one", fail), ("other", None))
        ]
        try:
            assert all(isinstance(one.exception(PATIENCE_S), GivenUp) for one in hung)
        finally:
            gate.set()
    assert wait_until(lambda: given_up == ["answer"])


def test_an_engine_that_does_not_tell_its_signs_holds_up_no_other_call(guard: Guard, gate: threading.Event) -> None:
    asked = threading.Event()

    def hang() -> float:
        asked.set()
        gate.wait()
        return time.monotonic()

    follow(guard, Future(), [], of="m", limit_s=BRIEF_S, alive_at=hang)
    assert asked.wait(PATIENCE_S)
    with ThreadPoolExecutor(1) as callers:
        other = callers.submit(guard.call, "x", LONG_S, lambda: 7)
        try:
            assert other.result(PATIENCE_S) == 7
        finally:
            gate.set()


@pytest.mark.logs_errors("call_stuck")
def test_where_no_thread_can_look_a_later_call_starts_one(
    guard: Guard, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "silence of engines":
            raise RuntimeError("can't start new thread")
        start(thread)

    def stage() -> int:
        return guard.call("x", BRIEF_S, lambda: 7, is_stage=True)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert guard.call_in_stages(stage) == 7
    with ThreadPoolExecutor(1) as callers:
        hung = callers.submit(guard.call, "m", BRIEF_S, gate.wait)
        try:
            assert isinstance(hung.exception(PATIENCE_S), GivenUp)
        finally:
            gate.set()


def test_threads_are_used_again(guard: Guard) -> None:
    before = threading.active_count()
    for _ in range(50):
        guard.call("x", LONG_S, lambda: None)
    assert threading.active_count() <= before + 1


def follow(guard: Guard, answer: Future[Any], given_up: list[str], *, of: str, **how: Any) -> None:
    def give_up(error: Exception) -> None:
        given_up.append(of)

    how.setdefault("alive_at", lambda: 0.0)
    guard.follow(answer, Awaited(of=of, give_up=give_up, **how))


@pytest.mark.logs_errors("call_stuck")
def test_the_answers_of_a_silent_model_are_given_up_together_and_those_of_others_are_not(
    guard: Guard,
) -> None:
    given_up: list[str] = []
    follow(guard, Future(), given_up, of="silent", limit_s=BRIEF_S)
    follow(guard, Future(), given_up, of="silent", limit_s=LONG_S)
    follow(guard, Future(), given_up, of="lively", limit_s=BRIEF_S, alive_at=time.monotonic)
    answered: Future[Any] = Future()
    follow(guard, answered, given_up, of="answered", limit_s=LONG_S)
    answered.set_result({})
    assert wait_until(lambda: given_up == ["silent", "silent"])
    assert guard.stuck == ["silent"]
    guard.recovered("silent")
    assert guard.stuck == []


@pytest.mark.parametrize("is_alive", [True, False])
@pytest.mark.logs_errors("call_stuck")
def test_a_caller_that_leaves_does_not_hide_a_loop_that_is_stuck(guard: Guard, is_alive: bool) -> None:
    given_up: list[str] = []
    answer: Future[Any] = Future()
    turns = time.monotonic if is_alive else lambda: 0.0
    follow(guard, answer, given_up, of="m", limit_s=BRIEF_S, alive_at=turns, outlives_cancel=True)
    answer.cancel()
    assert wait_until(lambda: not guard._answers and (is_alive or bool(given_up)))
    assert given_up == ([] if is_alive else ["m"])


def test_a_model_has_its_own_patience_before_its_task() -> None:
    patience = Patience(1.0, {"asr": 2.0, "huge": 3.0})
    assert [patience.of("ocr", "m"), patience.of("asr", "m"), patience.of("asr", "huge")] == [1.0, 2.0, 3.0]


def test_old_signs_of_models_that_came_and_went_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("engines.guard.time.monotonic", lambda: now[0])
    guard = Guard(Patience(10.0, {"slow": 100.0}))
    for version in range(5000):
        now[0] += 1.0
        guard.sign(("model", version))
    assert len(guard._signs) <= 1024 + 1
    assert guard.last_sign(("model", 4901)) == 4902.0  # silent for less than the longest patience
    assert guard.last_sign(("model", 1)) == 0.0


FORKED = """
import os, sys, threading, time
from engines.deadlines import Patience
from engines.guard import GivenUp, Guard

guard = Guard()
hung = threading.Event()
hang = lambda: hung.set() or time.sleep(600)
threading.Thread(target=guard.call_in_stages, args=(hang,), daemon=True).start()
hung.wait()
assert guard.call("x", 600, lambda: 7) == 7
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert guard.call("x", 600, lambda: 7) == 7
try:
    guard.call("y", 0.1, lambda: time.sleep(600))
except GivenUp:
    os._exit(3)
"""


@pytest.mark.processes
def test_a_process_that_was_forked_has_threads_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], timeout=60, check=False)
    assert done.returncode == 3
