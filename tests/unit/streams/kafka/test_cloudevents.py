"""CloudEvents in binary and structured mode, and plain messages without any."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from handlers.errors import Undecodable
from streams.kafka.cloudevents import BinaryHeaders, Incoming, receive

BODY = b'{"task": "asr"}'


def test_a_plain_message_is_its_own_value() -> None:
    assert receive(BODY, []) == Incoming(BODY, None, None)


def test_binary_mode_gives_id_and_traceparent_from_the_headers() -> None:
    headers = BinaryHeaders("inferstream.request", "etl").of("e1", 1893456000.5, "00-ab-cd-01")
    assert ("ce_time", b"2030-01-01T00:00:00.500+00:00") in headers
    assert receive(BODY, headers) == Incoming(BODY, "e1", "00-ab-cd-01")


def test_an_id_that_is_no_text_is_none() -> None:
    headers = [("ce_id", b"\xff"), ("traceparent", b"\xfe")]
    assert receive(BODY, headers) == Incoming(BODY, None, None)


def test_a_header_without_a_value_is_an_empty_one() -> None:
    nothing: Any = None
    assert receive(BODY, [("traceparent", nothing)]) == Incoming(BODY, None, "")


@pytest.mark.parametrize(
    "content_type", [b"application/cloudevents+json", b"Application/CloudEvents+JSON; charset=utf-8"]
)
@pytest.mark.parametrize("payload", ["data", "data_base64"])
def test_structured_mode_is_opened(content_type: bytes, payload: str) -> None:
    data: object = json.loads(BODY) if payload == "data" else base64.b64encode(BODY).decode()
    envelope = {"specversion": "1.0", "id": "e2", "source": "etl", "type": "t", payload: data}
    received = receive(json.dumps(envelope).encode(), [("content-type", content_type), ("traceparent", b"00-1-2-01")])
    assert json.loads(received.value) == json.loads(BODY)
    assert (received.event_id, received.traceparent) == ("e2", "00-1-2-01")


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_value_is_undecodable(value: bytes | None) -> None:
    with pytest.raises(Undecodable, match="empty"):
        receive(value, [])


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (b"{}", "not a CloudEvent"),
        (b"\xff", "not a CloudEvent"),
        (json.dumps({"specversion": "1.0", "id": "e", "source": "s", "type": "t"}).encode(), "no data"),
        (
            json.dumps({"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data_base64": "*"}).encode(),
            "not a CloudEvent",
        ),
    ],
)
def test_a_broken_envelope_is_undecodable(envelope: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        receive(envelope, [("content-type", b"application/cloudevents+json")])


def test_a_batch_of_events_is_refused_with_the_way_out() -> None:
    with pytest.raises(Undecodable, match="one event a message"):
        receive(b"[]", [("content-type", b"application/cloudevents-batch+json")])
