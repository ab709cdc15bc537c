"""The periodic task: when it calls, what it survives, when it ends."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from engines.periodic_task import PeriodicTask
from tests.unit.engines.cached_models import DEADLINE_S, wait_until

NEVER_S = 1e6


class Owner:
    """Counts the calls, and says what the next pause is."""

    def __init__(self) -> None:
        self.calls = 0
        self.pause_s = 0.0
        self.is_broken = False
        self.task = PeriodicTask(self.due, "task of a test")

    def due(self) -> float:
        self.calls += 1
        if self.is_broken:
            raise RuntimeError("a bug")
        return self.pause_s


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.task.close()


def thread_of(owner: Owner) -> threading.Thread:
    assert owner.task._thread is not None
    return owner.task._thread


def test_the_owner_is_called_again_and_again(owner: Owner) -> None:
    owner.task.start()
    wait_until(lambda: owner.calls > 3)


def test_started_twice_it_is_one_thread(owner: Owner) -> None:
    owner.task.start()
    thread = thread_of(owner)
    owner.task.start()
    assert thread_of(owner) is thread


def test_a_call_can_be_had_early(owner: Owner) -> None:
    owner.pause_s = NEVER_S
    owner.task.start()
    wait_until(lambda: owner.calls == 1)
    owner.task.wake()
    wait_until(lambda: owner.calls == 2)


@pytest.mark.logs_errors("periodic_task_failed")
def test_a_call_that_raises_does_not_end_it(owner: Owner) -> None:
    owner.is_broken = True
    owner.task.start()
    wait_until(lambda: owner.calls == 1)
    owner.is_broken = False
    owner.task.wake()
    wait_until(lambda: owner.calls > 1)


def test_closing_ends_the_thread_and_it_does_not_start_again(owner: Owner) -> None:
    owner.pause_s = NEVER_S
    owner.task.start()
    thread = thread_of(owner)
    owner.task.close()
    assert not thread.is_alive()
    owner.task.start()
    assert thread_of(owner) is thread


def test_the_thread_keeps_no_owner_alive_and_ends_with_it() -> None:
    def started() -> tuple[threading.Thread, weakref.ref[Owner]]:
        owner = Owner()
        owner.task.start()
        return thread_of(owner), weakref.ref(owner)

    thread, watched = started()

    def is_gone() -> bool:
        gc.collect()
        return watched() is None

    wait_until(is_gone)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
