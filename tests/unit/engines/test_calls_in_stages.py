"""Calls whose stages run in one thread, each with a time of its own: what hangs in them, and what follows."""

from __future__ import annotations

import threading
import time

import pytest

from engines.guard import GivenUp, Guard
from handlers.errors import Cancelled, DeadlineExceeded
from tests.processes import wait_until

BRIEF_S = 0.1
LONG_S = 600.0


def test_stages_run_in_one_thread_and_may_be_silent_in_between(guard: Guard) -> None:
    ran: list[int] = []

    def walk() -> str:
        for _ in range(3):
            guard.call("a stage", LONG_S, lambda: ran.append(threading.get_ident()), is_stage=True)
        wait_until(lambda: time.monotonic() > began + 5 * BRIEF_S)
        return "done"

    began = time.monotonic()
    assert guard.call_in_stages(walk) == "done"
    assert len(ran) == 3
    assert set(ran) != {threading.get_ident()}
    assert len(set(ran)) == 1


def test_a_stage_within_a_stage_has_a_thread_and_a_time_of_its_own(guard: Guard) -> None:
    def outer() -> tuple[int, int]:
        return threading.get_ident(), guard.call("inner", LONG_S, threading.get_ident, is_stage=True)

    one, other = guard.call_in_stages(lambda: guard.call("outer", LONG_S, outer, is_stage=True))
    assert one != other


@pytest.mark.logs_errors("call_stuck")
def test_a_stage_that_hangs_is_given_up_by_its_name_and_no_other_one_begins(
    guard: Guard, gate: threading.Event
) -> None:
    told: list[str] = []
    ended: list[BaseException] = []

    def walk() -> None:
        try:
            guard.call("first", LONG_S, lambda: None, is_stage=True)
            guard.call("second", BRIEF_S, gate.wait, given_up=lambda _: told.append("second"), is_stage=True)
            guard.call("third", LONG_S, lambda: told.append("third"), is_stage=True)
        except BaseException as error:
            ended.append(error)
            raise

    with pytest.raises(GivenUp, match="second did not respond"):
        guard.call_in_stages(walk)
    assert (guard.stuck, told) == (["second"], ["second"])
    gate.set()
    assert wait_until(lambda: guard.stuck == [] and ended != [])
    assert isinstance(ended[0], Cancelled)
    assert told == ["second"]


@pytest.mark.logs_errors("call_stuck")
def test_what_hangs_after_its_deadline_is_given_up_though_nobody_waits(guard: Guard, gate: threading.Event) -> None:
    told: list[str] = []

    def walk() -> None:
        guard.when_left(lambda: told.append("left"))
        guard.call("late", 3 * BRIEF_S, gate.wait, given_up=lambda _: told.append("given up"), is_stage=True)

    with pytest.raises(DeadlineExceeded):
        guard.call_in_stages(walk, ends=time.time())
    assert wait_until(lambda: "given up" in told)
    assert told[0] == "left"
    assert wait_until(lambda: guard.stuck == ["late"])
    gate.set()
    assert wait_until(lambda: guard.stuck == [])
