"""The table of statuses: complete, and as the specification says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engines.run.results import ResultError
from handlers.errors import InferenceError, MediaError
from streams.http.answers import RETRY_AFTER_S, STATUS, json_response, status_of


def every_error(root: type[InferenceError] = InferenceError) -> Iterator[type[InferenceError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == "handlers.errors":
            yield from every_error(child)


@pytest.mark.parametrize("error", list(every_error()), ids=lambda error: error.__name__)
def test_every_error_has_a_status(error: type[InferenceError]) -> None:
    assert error.code in STATUS


def test_no_status_is_for_a_code_that_nothing_raises() -> None:
    assert set(STATUS) == {error.code for error in every_error()}


@pytest.mark.parametrize("error", [e for e in every_error() if e not in (InferenceError, MediaError)])
def test_what_can_be_retried_says_when_and_what_cannot_does_not_look_like_it(
    error: type[InferenceError],
) -> None:
    status = status_of(error("said by a test"))
    headers = json_response({}, status=status).headers
    if error.retryable:
        assert status in RETRY_AFTER_S
        assert int(headers["Retry-After"]) > 0
    elif error.code != "CANCELLED":  # said by a worker that stops
        assert status not in RETRY_AFTER_S
        assert "Retry-After" not in headers


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("INVALID_INPUT", 400),
        ("MEDIA_CORRUPT", 400),
        ("UNKNOWN_TASK", 400),
        ("UNKNOWN_MODEL", 404),
        ("MEDIA_TOO_LARGE", 413),
        ("BUSY", 429),
        ("ENGINE_UNAVAILABLE", 503),
        ("DEADLINE_EXCEEDED", 504),
        ("A_CODE_OF_A_PLUGIN", 500),
    ],
)
def test_statuses_are_those_of_the_specification(code: str, status: int) -> None:
    assert status_of(ResultError(code, "said by a test", retryable=False)) == status
