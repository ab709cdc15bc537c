"""What a careful author writes by hand for a no-op model: a request decoded, its whole result and event encoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

_STAGES = ("queue", "resolve", "fetch", "preprocess", "wait", "infer", "postprocess")
_WORKER = "hand-written"


class Sent(NamedTuple):
    """One record to produce."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes]]


Work = Callable[[Any], Iterator[Sent]]
"""What a loop makes of one consumed record."""


class _Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    task: str
    engine: str
    model_name: str
    data: dict[str, Any]
    options: dict[str, Any] = {}
    id: str = ""
    priority: int = 5
    metadata: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


def passing_on(target: str) -> Work:
    """Return work that sends each value on as it is."""

    def work(record: Any) -> Iterator[Sent]:
        yield Sent(target, record.value, record.key, [])

    return work


def answering(target: str, events: str) -> Work:
    """Return work that sends what the product does: the result to `target`, its event to `events`, with headers."""

    def work(record: Any) -> Iterator[Sent]:
        began = time.time()
        request = _decode(record.value)
        output = {"value": request.data["value"], "metadata": {}}  # the model's whole work
        identity = request.id or f"{record.topic}/{record.partition}/{record.offset}"
        now = time.time()
        timings = dict.fromkeys(_STAGES, 0.0)
        timings["queue"] = max(0.0, began - record.timestamp / 1000)
        timings["infer"] = now - began
        about = {
            "id": identity,
            "task": request.task,
            "engine": request.engine,
            "model_name": request.model_name,
            "model_version": "1",
            "processing_time": now - began,
            "timings": timings,
            "attempt": 1,
            "worker": _WORKER,
            "success": True,
        }
        result = {**about, "timestamp": now, "result": output, "metadata": request.metadata}
        yield Sent(target, _encode(result), record.key, _headers("inferstream.result", identity, now))
        event = {**about, "kind": "request", "time": now}
        yield Sent(events, _encode(event), None, _headers("inferstream.event", identity, now))

    return work


def _headers(kind: str, identity: str, now: float) -> list[tuple[str, bytes]]:
    """Return the headers of a CloudEvent in binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", identity.encode()),
        ("ce_type", kind.encode()),
        ("ce_source", b"inferstream/" + _WORKER.encode()),
        ("ce_time", datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").encode()),
        ("content-type", b"application/json"),
    ]
