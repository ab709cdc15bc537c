"""Messages as the consumer hands them over."""

from __future__ import annotations

from typing import Any

from streams.acks import Received

TOPIC = "inference.requests.asr"


def message(offset: int, value: bytes | None = None, **changes: Any) -> Received:
    """Return a message of the first partition of `TOPIC`, of generation 1, but for `changes`."""
    fields: dict[str, Any] = {
        "topic": TOPIC,
        "partition": 0,
        "timestamp": 0,
        "key": None,
        "headers": (),
        "generation": 1,
    }
    return Received(offset=offset, value=value, **(fields | changes))
