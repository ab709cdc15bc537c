"""The publisher: one record and one metrics event per outcome, and never a result the broker refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiokafka.errors import (
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)

from engines.run.results import result_of
from handlers.errors import MediaNotFound
from streams.delivery.publisher import Reply
from streams.messages import Result, decode_event, decode_result
from tests.unit.streams.publishing_rig import Broker, codes_of_events, publisher, success


async def publish(broker: Broker, result: Result, **changes: Any) -> None:
    options = {k: changes.pop(k) for k in ("max_message_bytes",) if k in changes}
    about: dict[str, Any] = {"task": "text-generation", "key": b"k", "traceparent": "00-a-b-01"}
    await publisher(broker, **options).result(result, Reply(**(about | changes)))


async def test_a_result_and_its_event_are_published_with_key_headers_and_trace() -> None:
    broker = Broker()
    await publish(broker, success())
    ((key, value, headers),) = broker.on("inference.results.text-generation")
    assert key == b"k"
    assert value is not None
    result = decode_result(value)
    assert (result.success, result.id, result.metadata) == (True, "r1", {"run": 7})
    assert result.result is not None
    assert result.result["generated_text"] == "Paris"
    assert headers["ce_id"] == b"r1"
    assert headers["ce_type"] == b"inferstream.result"
    assert headers["traceparent"] == b"00-a-b-01"
    ((_, event_value, _),) = broker.on("inference.events")
    assert event_value is not None
    event = decode_event(event_value)
    assert (event.kind, event.id, event.success, event.error_code) == ("request", "r1", True, "")


async def test_a_failure_is_a_result_too_and_its_event_carries_the_code() -> None:
    broker = Broker()
    failure = result_of(
        MediaNotFound("no such key"),
        id="r2",
        task="asr",
        engine="transformers",
        model_name="w",
        processing_s=0.1,
    )
    await publish(broker, failure, task="asr")
    ((_, value, _),) = broker.on("inference.results.asr")
    assert value is not None
    result = decode_result(value)
    assert result.error is not None
    assert (result.error.code, result.error.message, result.error.retryable) == (
        "MEDIA_NOT_FOUND",
        "no such key",
        False,
    )
    ((_, event_value, _),) = broker.on("inference.events")
    assert event_value is not None
    assert decode_event(event_value).error_code == "MEDIA_NOT_FOUND"


async def test_a_result_that_is_too_large_becomes_a_failure_that_says_so() -> None:
    broker = Broker()
    await publish(broker, success("x" * 20_000), max_message_bytes=10_000)
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    result = decode_result(value)
    assert result.error is not None
    assert result.error.code == "RESULT_TOO_LARGE"
    assert "kafka.max_message_bytes" in result.error.message
    assert len(value) < 10_000


async def test_a_result_the_broker_finds_too_large_becomes_a_failure_too() -> None:
    broker = Broker(refusals={"inference.results.text-generation": MessageSizeTooLargeError()})
    await publish(broker, success())
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    assert json.loads(value)["error"]["code"] == "RESULT_TOO_LARGE"
    assert codes_of_events(broker) == ["RESULT_TOO_LARGE"]


@pytest.mark.parametrize(
    ("text", "code", "keeps_key"),
    [
        ("x" * 20_000, "RESULT_TOO_LARGE", True),
        ("x" * 5_000, None, False),
        ("x" * 9_500, "RESULT_TOO_LARGE", False),
    ],
)
async def test_a_key_that_leaves_no_room_for_the_result_is_what_goes_first(
    text: str, code: str | None, keeps_key: bool
) -> None:
    broker = Broker(most_bytes=10_000)
    key = b"k" * (100 if keeps_key else 9_000)
    await publish(broker, success(text), key=key, max_message_bytes=11_000)
    ((sent_key, value, _),) = broker.on("inference.results.text-generation")
    assert sent_key == (key if keeps_key else None)
    assert value is not None
    result = decode_result(value)
    assert (result.id, result.error.code if result.error else None) == ("r1", code)
    assert len(broker.on("inference.events")) == 1


async def test_a_trace_that_leaves_no_room_for_the_result_goes_as_well() -> None:
    broker = Broker(most_bytes=10_000)
    await publish(broker, success(), traceparent="t" * 9_900)
    ((_, value, headers),) = broker.on("inference.results.text-generation")
    assert "traceparent" not in headers
    assert value is not None
    assert decode_result(value).success


async def test_a_failure_that_is_too_large_keeps_its_code_and_the_start_of_its_message() -> None:
    broker = Broker()
    failure = result_of(
        MediaNotFound("no such key: " + "k" * 20_000),
        id="r2",
        task="text-generation",
        engine="transformers",
        model_name="w",
        processing_s=0.1,
    )
    await publish(broker, failure, max_message_bytes=10_000)
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    error = json.loads(value)["error"]
    assert error["code"] == "MEDIA_NOT_FOUND"
    assert error["message"].startswith("no such key: kkk")
    assert len(value) < 2_000


async def test_what_is_too_large_for_a_reply_topic_is_told_there() -> None:
    broker = Broker(refusals={"replies.team-a": MessageSizeTooLargeError()})
    await publish(broker, success(), reply_to="replies.team-a")
    ((key, value, _),) = broker.on("replies.team-a")
    assert value is not None
    assert (key, json.loads(value)["error"]["code"]) == (b"k", "RESULT_TOO_LARGE")
    assert broker.on("inference.results.text-generation") == []


async def test_reply_to_takes_the_place_of_the_result_topic() -> None:
    broker = Broker()
    await publish(broker, success(), reply_to="replies.team-a")
    assert len(broker.on("replies.team-a")) == 1
    assert broker.on("inference.results.text-generation") == []


async def test_a_reply_topic_that_takes_nothing_is_told_on_the_result_topic() -> None:
    broker = Broker(refusals={"replies.gone": UnknownTopicOrPartitionError()})
    await publish(broker, success(), reply_to="replies.gone")
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    assert "replies.gone" in json.loads(value)["error"]["message"]
    assert codes_of_events(broker) == ["INVALID_REQUEST"]


async def test_a_broker_that_takes_no_result_is_the_callers_to_handle() -> None:
    broker = Broker(refusals={"inference.results.text-generation": UnknownTopicOrPartitionError()})
    with pytest.raises(UnknownTopicOrPartitionError):
        await publish(broker, success())


def test_only_topics_that_match_in_full_are_allowed_as_reply_to() -> None:
    allowed = publisher(Broker())
    assert allowed.allows("replies.team-a")
    assert not allowed.allows("replies.")
    assert not allowed.allows("my.replies.team-a")


@pytest.mark.logs_errors("result_not_encodable")
async def test_a_result_without_a_json_form_becomes_a_failure_rather_than_the_end_of_the_worker() -> None:
    broker = Broker()
    result = success()
    assert result.result is not None
    result.result["odd"] = object()
    await publish(broker, result)
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    error = json.loads(value)["error"]
    assert (error["code"], "no JSON form" in error["message"]) == ("INTERNAL_ERROR", True)
