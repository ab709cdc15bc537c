"""Deadlines, time-outs and priorities of calls from Python, and engines that a request leaves out."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engines.deadlines import deadline_at, ends_at, urgency_of
from handlers.errors import InvalidRequest
from tests.unit.engines.parts import Bench


@pytest.mark.parametrize(
    ("deadline", "seconds"),
    [(None, None), (5, 5.0), (1.5, 1.5), ("1970-01-01T00:00:10Z", 10.0), ("1970-01-01T01:00:10+01:00", 10.0)],
)
def test_a_deadline_is_a_time_or_seconds(deadline: Any, seconds: float | None) -> None:
    assert deadline_at(deadline) == seconds


@pytest.mark.parametrize("deadline", ["soon", "2030-01-31T12:00:00", True, math.nan, math.inf, [], "", b"x"])
def test_what_is_no_time_is_refused(deadline: Any) -> None:
    with pytest.raises(InvalidRequest, match="is not an RFC 3339 time; write 2030-01-31T12:00:00Z or seconds"):
        deadline_at(deadline)


def test_the_earlier_of_deadline_and_timeout_counts() -> None:
    assert ends_at(None, None) is None
    assert ends_at(100, None) == 100
    assert ends_at(None, 5, clock=lambda: 10.0) == 15
    assert ends_at(12, 5, clock=lambda: 10.0) == 12
    for timeout in (0, -1, math.nan, math.inf, 10**400, True, "5"):
        with pytest.raises(InvalidRequest, match="must be a finite number of seconds above 0, such as 30"):
            ends_at(None, timeout)


def test_nine_goes_before_nought_and_among_equals_the_earlier_deadline() -> None:
    assert urgency_of(9, None) < urgency_of(5, 10.0) < urgency_of(5, 20.0) < urgency_of(5, None) < urgency_of(0, 1)
    for priority in (-1, 10, 5.0, True, "5", None):
        with pytest.raises(InvalidRequest, match="must be a whole number from 0 to 9"):
            urgency_of(priority, None)  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def hanging(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An engine that answers when this is set."""
    answers = threading.Event()

    def infer(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        assert answers.wait(60)
        return {"shouted": inputs["text"].upper()}

    monkeypatch.setattr(bench.engine, "infer", infer)
    return answers


def test_a_call_ends_when_its_time_is_over_and_the_next_is_answered(bench: Bench, hanging: threading.Event) -> None:
    for until in ({"timeout": 0.05}, {"deadline": time.time() + 0.05}):
        error = bench.error_of({"text": "slow"}, **until)
        assert (error["code"], error["retryable"]) == ("DEADLINE_EXCEEDED", False)
    hanging.set()
    assert bench.infer({"text": "x"}, timeout=60)["result"]["text"] == "X"
    assert bench.infer({"text": "x"}, deadline=time.time() + 60, priority=9)["result"]["text"] == "X"


def test_an_expired_call_asks_no_engine(bench: Bench) -> None:
    assert bench.error_of({"text": "x"}, deadline=time.time() - 1)["code"] == "DEADLINE_EXCEEDED"
    assert not bench.engine.loaded


@pytest.mark.parametrize("bad", [{"deadline": "soon"}, {"timeout": -1}, {"priority": 11}])
def test_what_is_no_time_or_priority_is_a_failed_result(bench: Bench, bad: dict[str, Any]) -> None:
    assert bench.error_of({"text": "x"}, **bad)["code"] == "INVALID_REQUEST"


def test_an_engine_that_is_left_out_is_the_one_of_the_models_tags(bench: Bench) -> None:
    result = bench.manager.infer(task="shout", model_name="tagged", data={"text": "x"})
    assert result["success"], result
    assert result["engine"] == "shouter"


def test_a_model_whose_tags_name_no_engine_needs_one_in_the_request(bench: Bench) -> None:
    error = bench.error_of({"text": "x"}, engine="", model_name="plain")
    assert error["code"] == "INVALID_REQUEST"
    assert "engine is left out, and the tags of model plain/1 name none" in error["message"]
    assert bench.error_of({"text": "x"}, engine="", model_name="other-task")["code"] == "MODEL_MISMATCH"
    assert bench.error_of({"text": "x"}, engine="", model_name="nobody")["code"] == "UNKNOWN_MODEL"


@pytest.mark.parametrize("far", [{"timeout": 1e300}, {"deadline": "9999-12-31T23:59:59Z"}])
def test_a_time_beyond_what_a_thread_can_wait_is_no_bound(bench: Bench, far: dict[str, Any]) -> None:
    assert bench.infer({"text": "x"}, **far)["result"]["text"] == "X"


@pytest.mark.parametrize(
    "huge", [{"deadline": 10**400}, {"deadline": 10**5000}, {"priority": 10**5000}, {"timeout": 10**5000}]
)
def test_a_number_beyond_all_floats_is_a_failed_result(bench: Bench, huge: dict[str, Any]) -> None:
    error = bench.error_of({"text": "x"}, **huge)
    assert error["code"] == "INVALID_REQUEST"
    assert len(error["message"]) < 300
