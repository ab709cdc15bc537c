"""Counts how requests ended and logs failures, for Kafka, HTTP and Python."""

from __future__ import annotations

import threading

from engines.log_context import LineLimit
from engines.run.results import Result, ResultError
from engines.run.statistics import Statistics
from handlers.errors import InferenceError
from handlers.logger import get_logger

log = get_logger(__name__)

LINES_PER_S = 5
"""Most log lines per error code and second; further ones are counted and reported a second later."""

_MOST_CHARS = 500


class Outcomes:
    """Counts every outcome once; thread-safe.

    A failed request leaves one WARNING `request_failed`, a dead letter one `request_dead_lettered`. Where there are
    too many of a code, one `requests_failed` counts the rest.
    """

    def __init__(self, statistics: Statistics, lines: LineLimit | None = None) -> None:
        self._statistics = statistics
        self._lines = lines or LineLimit(LINES_PER_S, 1.0)
        self._telling = threading.Lock()
        self._timer: threading.Timer | None = None

    def finished(self, result: Result) -> None:
        """Count the result of a request that was admitted, success or failure."""
        self._statistics.record(result)
        if result.error is not None:
            self._tell(result, result.error)

    def refused(self, result: Result) -> None:
        """Count the failed result of a request that was not admitted."""
        if result.error is not None:
            self._statistics.count("refusals", result.task, result.error.code)
            self._tell(result, result.error)

    def replaced(self, before: Result, now: Result) -> None:
        """Correct the count of a result that is replaced, as it is too large or has no JSON form."""
        if before.error is None and now.error is not None:
            self._statistics.replace(now, now.error.code)
            self._tell(now, now.error)

    def dead_lettered(
        self, *, task: str, topic: str, partition: int, offset: int, stage: str, error: InferenceError
    ) -> None:
        """Count a dead letter."""
        self._statistics.count("dead_letters", task, error.code)
        if self._may_tell(error.code):
            log.warning(
                "request_dead_lettered",
                topic=topic,
                partition=partition,
                offset=offset,
                stage=stage,
                code=error.code,
                error=error.message[:_MOST_CHARS],
            )

    def _tell(self, result: Result, error: ResultError) -> None:
        if self._may_tell(error.code):
            log.warning(
                "request_failed",
                request_id=result.id,
                task=result.task,
                model=result.model_name,
                code=error.code,
                error=error.message[:_MOST_CHARS],
            )

    def _may_tell(self, code: str) -> bool:
        if self._lines.allows(code):
            return True
        with self._telling:
            if self._timer is None:
                self._timer = threading.Timer(1.0, self.tell_left_out)
                self._timer.daemon = True
                self._timer.start()
        return False

    def tell_left_out(self) -> None:
        """Log how many lines were left out since the last such line."""
        with self._telling:
            self._timer = None
        for code, count in self._lines.take_left_out().items():
            log.warning("requests_failed", code=code, more=count)
