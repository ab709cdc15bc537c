"""One call for a key at a time, whose answer all get who asked meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from engines.single_flight import SingleFlight

PATIENCE_S = 60.0


def test_who_asks_meanwhile_gets_the_same_answer_and_who_asks_later_a_new_one() -> None:
    flights: SingleFlight[str, int] = SingleFlight("test")
    go, calls = threading.Event(), iter(range(9))

    def call() -> int:
        assert go.wait(PATIENCE_S)
        return next(calls)

    asked = [flights.start("a", call) for _ in range(3)]
    go.set()
    assert [one.result(PATIENCE_S) for one in asked] == [0, 0, 0]
    assert flights.start("a", call).result(PATIENCE_S) == 1


def test_a_call_that_hangs_holds_up_no_other_key() -> None:
    flights: SingleFlight[str, bool] = SingleFlight("test")
    go = threading.Event()
    hangs = flights.start("a", lambda: go.wait(PATIENCE_S))
    assert flights.start("b", lambda: True).result(PATIENCE_S)
    assert not hangs.done()
    go.set()
    assert hangs.result(PATIENCE_S)


def test_all_get_what_it_raises_and_the_next_tries_again() -> None:
    flights: SingleFlight[str, int] = SingleFlight("test")
    go = threading.Event()

    def fail() -> int:
        assert go.wait(PATIENCE_S)
        raise LookupError("not there")

    asked = [flights.start("a", fail), flights.start("a", fail)]
    go.set()
    for one in asked:
        with pytest.raises(LookupError, match="not there"):
            one.result(PATIENCE_S)
    assert flights.start("a", lambda: 7).result(PATIENCE_S) == 7


def test_without_a_thread_the_caller_is_told_and_the_next_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flights: SingleFlight[str, int] = SingleFlight("test")

    def refuse(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            flights.start("a", lambda: 1)
    assert flights.start("a", lambda: 2).result(PATIENCE_S) == 2
