"""Deadline, priority and timeout of a request, and how long engines and handlers may be silent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engines.base import Urgency
from handlers.errors import DeadlineExceeded, InvalidRequest
from handlers.options.spec import shown

MOST_URGENT = 9
USUAL_PRIORITY = 5

_LATEST_S = 3e11
"""A deadline above this is in milliseconds: as seconds it is beyond the year 9999."""

Deadline = str | float | None
"""An RFC 3339 time with an offset, or seconds since the epoch."""


def deadline_at(deadline: Any) -> float | None:
    """Return the deadline as seconds since the epoch, or None where there is none.

    Raises:
        InvalidRequest: permanent; neither a number nor an RFC 3339 time with an offset.
    """
    if deadline is None:
        return None
    seconds = _moment(deadline) if isinstance(deadline, str) else _seconds(deadline)
    if seconds is None or not math.isfinite(seconds):
        written = repr(deadline) if isinstance(deadline, str) else shown(deadline)
        raise InvalidRequest(
            f"deadline {written} is not an RFC 3339 time; write 2030-01-31T12:00:00Z or seconds since the epoch"
        )
    if seconds > _LATEST_S:
        raise InvalidRequest(
            f"deadline {shown(deadline)} is beyond the year 9999; write seconds since the epoch, not milliseconds"
        )
    return seconds


def urgency_of(priority: int, deadline_s: float | None) -> Urgency:
    """Return the urgency of a request: by priority, 9 first, then by deadline (seconds since the epoch).

    Raises:
        InvalidRequest: permanent; not a whole number from 0 to 9.
    """
    if type(priority) is not int or not 0 <= priority <= MOST_URGENT:
        raise InvalidRequest(
            f"priority {shown(priority)} must be a whole number from 0 to {MOST_URGENT}; {MOST_URGENT} goes first"
        )
    return (-priority, math.inf if deadline_s is None else deadline_s)


def ends_at(deadline: Any, timeout_s: Any, clock: Callable[[], float] = time.time) -> float | None:
    """Return the earlier of deadline and timeout, in seconds since the epoch; None for never.

    Raises:
        InvalidRequest: permanent; an invalid deadline, or a timeout that is not a finite number above 0.
    """
    ends = [deadline_at(deadline)]
    if timeout_s is not None:
        ends.append(clock() + checked_seconds("timeout", timeout_s, InvalidRequest))
    return min((end for end in ends if end is not None), default=None)


def checked_seconds(name: str, value: Any, refusal: Callable[[str], Exception] = ValueError) -> float:
    """Return the time that a caller allows, in seconds.

    Raises:
        ValueError, or what `refusal` makes: permanent; not a finite number above 0.
    """
    seconds = _seconds(value)
    if seconds is None or not 0 < seconds < math.inf:
        raise refusal(f"{name}={shown(value)} must be a finite number of seconds above 0, such as 30")
    return seconds


def expired() -> DeadlineExceeded:
    """Return the error of a request whose time is over."""
    return DeadlineExceeded("the deadline of this request has passed; send it with a later one, or ask for less")


def _seconds(value: Any) -> float | None:
    """Return a number as seconds, infinity where it is larger than any float; None for what is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()


DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call of an engine or handler may be silent, by worker.infer_timeout_s and worker.infer_timeouts."""

    default_s: float = DEFAULT_TIMEOUT_S
    own_s: Mapping[str, float] = field(default_factory=dict)
    """By model or task; the model's value wins."""

    def of(self, task: str, model_name: str) -> float:
        """Return the seconds for requests of that task to that model."""
        return self.own_s.get(model_name, self.own_s.get(task, self.default_s))
