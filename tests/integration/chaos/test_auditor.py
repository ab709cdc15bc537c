"""The auditor finds what the chaos tests must never see."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.chaos.auditor import Audit, compare


def request(offset: int, identity: str | None = None, *, partition: int = 0) -> Any:
    value = json.dumps({"id": identity} if identity else {}).encode()
    return SimpleNamespace(topic="requests", partition=partition, offset=offset, value=value)


def result(identity: str, answer: str = "fine", **volatile: Any) -> Any:
    return SimpleNamespace(value=json.dumps({"id": identity, "result": answer, **volatile}).encode())


def letter(offset: int, *, partition: int = 0) -> Any:
    names = {"topic": b"requests", "partition": b"%d" % partition, "offset": b"%d" % offset}
    return SimpleNamespace(headers=[(f"__dlq.errors.{name}", value) for name, value in names.items()])


def test_all_answered_is_all_well() -> None:
    found = compare([request(0, "a"), request(1, "b")], [result("b"), result("a")], [], {0: 2})
    assert found == Audit(2, 2, (), (), (), (), ())
    found.check()


def test_unanswered_requests_are_lost_and_those_before_the_commit_are_told_apart() -> None:
    requests = [request(0, "a"), request(1, "b"), request(0, "c", partition=1), request(2, "d")]
    found = compare(requests, [result("a")], [], {0: 2})
    assert found.lost == ("b at 0@1", "c at 1@0", "d at 0@2")
    assert found.committed_past == ("b at 0@1",)
    assert found.answered == 1
    with pytest.raises(AssertionError, match="1 committed past: b at 0@1"):
        found.check()


def test_a_dead_letter_is_an_outcome_of_just_its_record() -> None:
    found = compare([request(0), request(1), request(1, partition=1)], [], [letter(1)], {})
    assert found.lost == ("requests/0/0 at 0@0", "requests/1/1 at 1@1")


def test_a_request_without_an_id_is_answered_under_its_place() -> None:
    compare([request(7, partition=3)], [result("requests/3/7")], [], {3: 8}).check()


def test_a_second_answer_is_a_duplicate_and_differs_only_where_it_says_something_else() -> None:
    requests = [request(0, "same"), request(1, "other")]
    results = [
        result("same", timestamp=1.0, attempt=1, worker="w1", processing_time=1.0, timings={"infer": 1.0}),
        result("same", timestamp=2.0, attempt=2, worker="w2", processing_time=2.0, timings={}),
        result("other"),
        result("other", "something else"),
    ]
    found = compare(requests, results, [], {})
    assert found.duplicates == ("same", "other")
    assert found.differing == ("other",)
    with pytest.raises(AssertionError, match="1 differing: other"):
        found.check()


def test_an_answer_to_what_the_log_does_not_hold_is_named() -> None:
    assert compare([], [result("aborted")], [], {}).unasked == ("aborted",)
