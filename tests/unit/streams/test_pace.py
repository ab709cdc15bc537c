"""Which handlers are taken for quick."""

from __future__ import annotations

import time
from typing import Any

import pytest

from handlers.base import BaseModelHandler
from streams.pace import Pace


class Handler(BaseModelHandler):
    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return result


class Clock:
    """Moves by what each call is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def calls(self, measured: Pace, *seconds: float) -> None:
        for took_s in seconds:
            measured.run(Handler(), "preprocess", self._pass, took_s)

    def _pass(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_handler_is_quick_until_it_proves_otherwise(clock: Clock) -> None:
    measured = Pace()
    assert measured.is_quick(Handler(), "preprocess")
    clock.calls(measured, *[0.0001] * 100)
    assert measured.is_quick(Handler(), "preprocess")


def test_one_long_call_is_no_proof_since_the_machine_may_have_stopped_the_process(clock: Clock) -> None:
    measured = Pace()
    clock.calls(measured, 0.0001, 3.0, 0.0001, 0.0001, 3.0, 0.0001)
    assert measured.is_quick(Handler(), "preprocess")


def test_three_long_calls_in_a_row_are_proof(clock: Clock) -> None:
    measured = Pace()
    clock.calls(measured, 0.0001, 0.1, 0.1, 0.1)
    assert not measured.is_quick(Handler(), "preprocess")
    assert measured.is_quick(Handler(), "postprocess")


def test_a_call_that_raises_is_measured_too_and_raises() -> None:
    def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Pace().run(Handler(), "preprocess", refuse)
