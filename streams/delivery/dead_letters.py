"""Builds dead letters: the original record, with the reason in its headers."""

from __future__ import annotations

from collections.abc import Iterator

from handlers.errors import InferenceError
from streams.delivery.port import ProducerRecord, Record
from streams.kafka.cloudevents import Headers

_MESSAGE_CHARS = 1000
_LEAST_VALUE_BYTES = 1024
_FRAMING_BYTES = 1024
"""The most bytes that the broker's framing adds to a record."""


def ever_smaller_letters(
    origin: Record, topic: str, *, group: str, stage: str, error: InferenceError, max_message_bytes: int
) -> Iterator[ProducerRecord]:
    """Yield versions of `origin` for the dead letter topic: untouched, then cut, for a broker that refuses its size.

    The second has its value cut to `max_message_bytes`. The third has no key and no headers of the producer's either,
    and only the start of the value. The header `__dlq.errors.truncated` of a cut letter says how many bytes the value
    had.
    """
    why = [
        ("__dlq.errors.topic", origin.topic.encode()),
        ("__dlq.errors.partition", str(origin.partition).encode()),
        ("__dlq.errors.offset", str(origin.offset).encode()),
        ("__dlq.errors.group", group.encode()),
        ("__dlq.errors.delivery.count", str(max(1, origin.crashes)).encode()),
        ("__dlq.errors.stage", stage.encode()),
        ("__dlq.errors.exception.class", error.code.encode()),
        ("__dlq.errors.message", error.message[:_MESSAGE_CHARS].encode("utf-8", "replace")),
    ]
    headers = [*origin.headers, *why]
    yield ProducerRecord(topic, origin.key, origin.value, headers)
    value = origin.value or b""
    truncated = ("__dlq.errors.truncated", str(len(value)).encode())
    room = max_message_bytes - _FRAMING_BYTES - _size_of(origin.key, headers)
    if 0 < room < len(value):
        yield ProducerRecord(topic, origin.key, value[:room], [*headers, truncated])
    yield ProducerRecord(topic, None, value[:_LEAST_VALUE_BYTES], [*why, truncated])


def _size_of(key: bytes | None, headers: Headers) -> int:
    return len(key or b"") + sum(len(name.encode()) + len(content or b"") for name, content in headers)
