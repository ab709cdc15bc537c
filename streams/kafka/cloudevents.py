"""CloudEvents on Kafka: binary-mode headers out, binary and structured mode in.

Source: CloudEvents 1.0.2, Kafka protocol binding.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from handlers.errors import Undecodable

Headers = list[tuple[str, bytes]]
"""Kafka record headers: ordered, a name may repeat."""

REQUEST_TYPE = "inferstream.request"
RESULT_TYPE = "inferstream.result"
EVENT_TYPE = "inferstream.event"

_STRUCTURED = "application/cloudevents+json"
_SPECVERSION = ("ce_specversion", b"1.0")
_JSON = ("content-type", b"application/json")
_BATCHED = "application/cloudevents-batch+json"


class _Envelope(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None
    traceparent: str | None = None


_envelope_decoder = msgspec.json.Decoder(_Envelope)


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A received message without its CloudEvents envelope: the request's bytes and the attributes used."""

    value: bytes
    event_id: str | None
    traceparent: str | None


class BinaryHeaders:
    """Makes the headers of binary-mode events of one type from one source, with JSON values."""

    def __init__(self, event_type: str, source: str) -> None:
        self._type = ("ce_type", event_type.encode())
        self._source = ("ce_source", source.encode())

    def of(self, event_id: str, time: float, traceparent: str | None = None) -> Headers:
        """Return the headers of one event; `time` is in seconds since the epoch."""
        headers = [
            _SPECVERSION,
            ("ce_id", event_id.encode()),
            self._type,
            self._source,
            _ce_time(int(time * 1000)),
            _JSON,
        ]
        if traceparent:
            headers.append(("traceparent", traceparent.encode()))
        return headers


# A result and its event have the same time, and so have others of their batch.
@functools.lru_cache(maxsize=16)
def _ce_time(milliseconds: int) -> tuple[str, bytes]:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return ("ce_time", moment.isoformat(timespec="milliseconds").encode())


def receive(value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Incoming:
    """Return the request's bytes, whether the message is plain, binary or structured.

    Raises:
        Undecodable: permanent; an empty value, a batch, or an invalid envelope.
    """
    if not value:
        raise Undecodable("the message is empty; send a JSON object with task, engine, model_name and data")
    if not headers:
        return Incoming(value, None, None)
    attributes = {}
    for name, content in headers:
        # Bytes that are not UTF-8 are left out: an id with replacement characters could be equal to another one.
        with contextlib.suppress(UnicodeDecodeError):
            attributes[name.lower()] = (content or b"").decode()
    content_type = attributes.get("content-type", "").lower()
    if content_type.startswith(_BATCHED):
        raise Undecodable(f"content-type {_BATCHED} does not exist on Kafka; send one event a message")
    if content_type.startswith(_STRUCTURED):
        return _open(value, attributes)
    return Incoming(value, attributes.get("ce_id"), attributes.get("traceparent"))


def _open(value: bytes, attributes: Mapping[str, str]) -> Incoming:
    try:
        envelope = _envelope_decoder.decode(value)
        data = bytes(envelope.data)
        if envelope.data_base64 is not None:
            data = base64.b64decode(envelope.data_base64, validate=True)
        if not data:
            raise Undecodable(f"the CloudEvent {envelope.id!r} has no data; put the request into its data")
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error) as error:
        raise Undecodable(f"content-type says {_STRUCTURED}, but the value is not a CloudEvent: {error}") from None
    return Incoming(data, envelope.id, envelope.traceparent or attributes.get("traceparent"))
