"""Every outcome is counted once and every failure told, as far as a log can bear it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from engines.log_context import LineLimit
from engines.run.outcomes import LINES_PER_S, Outcomes
from engines.run.results import result_of
from engines.run.statistics import Statistics
from handlers.errors import InferenceFailed, InvalidOption, ResultTooLarge, Undecodable
from tests.unit.engines.parts import Bench

ABOUT: dict[str, Any] = {"task": "asr", "engine": "e", "model_name": "m", "processing_s": 0.1}


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


def test_a_failed_request_leaves_one_warning_that_names_it(statistics: Statistics) -> None:
    with structlog.testing.capture_logs() as lines:
        Outcomes(statistics).finished(result_of(InferenceFailed("broken"), id="r1", **ABOUT))
    assert lines == [
        {
            "event": "request_failed",
            "log_level": "warning",
            "request_id": "r1",
            "task": "asr",
            "model": "m",
            "code": "INFERENCE_FAILED",
            "error": "broken",
        }
    ]
    found = statistics.snapshot()
    assert (found["failed_inferences"], found["errors"]) == (1, {"INFERENCE_FAILED": 1})


def test_an_answered_request_leaves_no_line(statistics: Statistics) -> None:
    with structlog.testing.capture_logs() as lines:
        Outcomes(statistics).finished(result_of({}, **ABOUT))
    assert lines == []
    assert statistics.snapshot()["errors"] == {}


def test_lines_are_bounded_for_each_code_and_the_rest_is_counted_and_told(statistics: Statistics) -> None:
    outcomes = Outcomes(statistics, LineLimit(LINES_PER_S, 1.0, clock=lambda: 0.0))
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            outcomes.finished(result_of(InferenceFailed("broken"), **ABOUT))
        outcomes.finished(result_of(InvalidOption("odd"), **ABOUT))
        outcomes.tell_left_out()
    codes = [line["code"] for line in lines if line["event"] == "request_failed"]
    assert codes == ["INFERENCE_FAILED"] * LINES_PER_S + ["INVALID_OPTION"]
    told = [line for line in lines if line["event"] == "requests_failed"]
    assert sum(line["more"] for line in told) == 1000 - LINES_PER_S
    assert {line["code"] for line in told} == {"INFERENCE_FAILED"}
    assert statistics.snapshot()["errors"] == {"INFERENCE_FAILED": 1000, "INVALID_OPTION": 1}


def test_refusals_and_dead_letters_are_counted_beside_what_was_inferred(statistics: Statistics) -> None:
    outcomes = Outcomes(statistics)
    with structlog.testing.capture_logs() as lines:
        outcomes.refused(result_of(InvalidOption("odd"), id="r1", **ABOUT))
        outcomes.dead_lettered(
            task="asr", topic="t", partition=3, offset=42, stage="decode", error=Undecodable("no JSON")
        )
    assert [line["event"] for line in lines] == ["request_failed", "request_dead_lettered"]
    assert (lines[1]["topic"], lines[1]["partition"], lines[1]["offset"]) == ("t", 3, 42)
    found = statistics.snapshot()
    assert (found["total_inferences"], found["errors"]) == (0, {})
    assert (found["refusals"], found["dead_letters"]) == ({"INVALID_OPTION": 1}, {"UNDECODABLE": 1})


def test_an_answer_that_could_not_be_sent_counts_as_the_failure_in_its_place(statistics: Statistics) -> None:
    outcomes = Outcomes(statistics)
    answered = result_of({}, id="r1", **ABOUT)
    failed = result_of(ResultTooLarge("large"), id="r1", **ABOUT)
    outcomes.finished(answered)
    outcomes.replaced(answered, failed)
    outcomes.finished(failed)
    outcomes.replaced(failed, result_of(ResultTooLarge("cut"), id="r1", **ABOUT))
    found = statistics.snapshot()
    assert (found["total_inferences"], found["successful_inferences"]) == (2, 0)
    assert (found["tasks"]["asr"]["failed"], found["errors"]) == (2, {"RESULT_TOO_LARGE": 2})


def test_a_call_from_python_is_counted_and_told_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with structlog.testing.capture_logs() as lines:
        assert bench.error_of({"text": "engine-bug"})["code"] == "INFERENCE_FAILED"
    [line] = [line for line in lines if line["event"] == "request_failed"]
    assert (line["task"], line["model"], line["code"]) == ("shout", "tagged", "INFERENCE_FAILED")
    assert line["request_id"]
    assert bench.manager.get_stats()["errors"] == {"INFERENCE_FAILED": 1}
