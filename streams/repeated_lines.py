"""A log filter: passes a repeated line once, then at growing intervals, with how many were left out."""

from __future__ import annotations

import logging
import math
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 600.0

LIBRARIES = ("aiokafka", "faust", "mode")
"""Loggers that repeat lines while a broker is away: up to 150 lines a second."""

FAUST_LOG = logging.getLogger("faust")
"""The logger of Faust's services that we subclass: else their lines would bear the names of our modules."""

NOT_TOLD = (
    "Warning: Task timed out!",
    "Please make sure it's hanging before restart.",
    "The agent processing the stream is hanging",
    "The stream has stopped processing events",
)
"""Parts of Faust's lines about commits and rebalances that take longer than it expects, or about streams that do not
run here. A busy worker has many such lines; /readyz and /metrics show what is slow."""

BROKER_AWAY = "a broker is away or not ready"

_MOST_KINDS = 1000
_NUMBERS = re.compile(r"\d+")
_KEPT_CHARS = 300
_WITHOUT_BROKER = ("Unable to update metadata", "Marking the coordinator dead")
"""How lines about a broker that is away begin when no argument holds the error."""

_NO_OUTAGE = frozenset(
    {
        "CorrelationIdError",
        "KafkaProtocolError",
        "KafkaStorageError",
        "NotEnoughReplicasAfterAppendError",
        "NotEnoughReplicasError",
        "UnknownTopicOrPartitionError",
    }
)
"""Errors that aiokafka calls retriable though brokers answer; by name, so that logging does not import it."""


@dataclass(slots=True)
class _Kind:
    """Lines that say the same."""

    told: str = ""
    """The text for those that are left out: the line that was shown, or a summary of all."""
    pause_s: float = 0.0
    next_at: float = 0.0
    seen_at: float = -math.inf
    left_out: int = 0
    since: float = 0.0
    """When the first line came that was left out."""


class RepeatedLines(logging.Filter):
    """A filter for a handler. Thread-safe; lines of loggers other than `LIBRARIES` pass as they are.

    Two lines are of one kind where they differ only in numbers, or both say that a broker is away. After the first,
    one passes after 10 s, 20 s, 40 s and so on up to 10 minutes, and says how many were left out. `flush` reports the
    rest. A kind that was quiet for its whole pause starts again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, int, str], _Kind] = {}
        """The one that was seen last is the last."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in LIBRARIES:
            return True
        message = record.getMessage()
        if not record.name.startswith("aiokafka") and any(part in message for part in NOT_TOLD):
            return False
        kind = _kind_of(record, message)
        now = self._clock()
        with self._lock:
            known = self._kinds[kind] = self._kinds.pop(kind, _Kind())
            if len(self._kinds) > _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            quiet_s, known.seen_at = now - known.seen_at, now
            if quiet_s > known.pause_s:
                known.pause_s = FIRST_PAUSE_S
            elif now >= known.next_at:
                known.pause_s = min(2 * known.pause_s, LONGEST_PAUSE_S)
            else:
                known.since = known.since if known.left_out else now
                known.left_out += 1
                return False
            known.told = BROKER_AWAY if BROKER_AWAY in kind else message
            known.next_at = now + known.pause_s
            left_out, known.left_out, since = known.left_out, 0, known.since
        if left_out:
            record.msg, record.args = f"{message} {_more(left_out, now - since)}", None
        return True

    def flush(self, handler: logging.Handler) -> None:
        """Log to `handler` what was left out and not reported yet."""
        now = self._clock()
        records = []
        with self._lock:
            for (name, level, _), one in self._kinds.items():
                if one.left_out:
                    text = f"{one.told} {_more(one.left_out, now - one.since)}"
                    records.append(logging.LogRecord(name, level, __file__, 0, text, None, None))
                    one.left_out = 0
        for record in records:
            handler.emit(record)


def _kind_of(record: logging.LogRecord, message: str) -> tuple[str, int, str]:
    arguments = record.args if isinstance(record.args, tuple) else ()
    if record.name.startswith("aiokafka") and (
        message.startswith(_WITHOUT_BROKER) or any(map(_tells_of_no_broker, arguments))
    ):
        return "aiokafka", logging.WARNING, BROKER_AWAY
    return record.name, record.levelno, _NUMBERS.sub("#", message)[:_KEPT_CHARS]


def _tells_of_no_broker(argument: object) -> bool:
    """Whether the value is an error, or its class, about a connection or a broker that will be ready later."""
    if isinstance(argument, ssl.SSLError):
        return False  # a certificate error, which waiting does not solve
    error = argument if isinstance(argument, type) else type(argument)
    if error.__name__ == "KafkaTimeoutError" or isinstance(argument, OSError):
        return True
    return bool(getattr(error, "retriable", False)) and error.__name__ not in _NO_OUTAGE


def _more(left_out: int, seconds: float) -> str:
    return f"(and {left_out} more like it in {seconds:.0f} s)"
