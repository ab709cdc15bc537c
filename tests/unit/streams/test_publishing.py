"""The publisher: one record and one metrics event per outcome, and never a result the broker refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from engines.results import failure_result, success_result
from handlers.errors import MediaNotFound, Undecodable
from streams.messages import decode_event, decode_result
from streams.outbox import Delivery, Outgoing
from streams.publishing import Out, Publisher
from streams.topics import Topics


@dataclass
class Broker:
    """Takes records like a producer, and refuses those for the topics in `refusals` and those above `most_bytes`."""

    refusals: dict[str, KafkaError] = field(default_factory=dict)
    most_bytes: int = 10**9
    records: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = field(default_factory=list)

    async def deliver(self, *records: Outgoing) -> None:
        refused = [error for record in records if (error := self._take(record)) is not None]
        if refused:
            raise refused[0]

    def post(self, records: Sequence[Outgoing], delivery: Delivery) -> None:
        delivery.missing = len(records)
        for record in records:
            error = self._take(record)
            if error is None:
                delivery.arrived()
            else:
                delivery.failed(record, error)

    def _take(self, record: Outgoing) -> KafkaError | None:
        if record.topic in self.refusals:
            return self.refusals.pop(record.topic)
        if size_of(record) > self.most_bytes:
            return MessageSizeTooLargeError()
        self.records.append((record.topic, record.key, record.value, dict(record.headers)))
        return None

    def on(self, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
        return [(key, value, headers) for name, key, value, headers in self.records if name == topic]


def size_of(record: Outgoing) -> int:
    """Return what aiokafka makes of the record, as a batch of its own."""
    batch = BatchBuilder(10**9, 0)
    assert batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    return int(batch.size())


def publisher(broker: Broker, *, max_message_bytes: int = 100_000) -> Publisher:
    return Publisher(
        broker,
        topics=Topics(),
        worker="w1",
        group="g1",
        max_message_bytes=max_message_bytes,
        reply_topics=[r"replies\..+"],
    )


def success(text: str = "Paris") -> dict[str, Any]:
    return success_result(
        result={"generated_text": text},
        id="r1",
        task="text-generation",
        engine="transformers",
        model_name="smollm2",
        processing_s=0.5,
        metadata={"run": 7},
        worker="w1",
    )


async def publish(broker: Broker, result: dict[str, Any], **changes: Any) -> None:
    options: dict[str, Any] = {
        "task": "text-generation",
        "key": b"k",
        "traceparent": "00-a-b-01",
        "reply_to": None,
    }
    await publisher(broker, **{k: changes.pop(k) for k in ("max_message_bytes",) if k in changes}).result(
        result, **(options | changes)
    )


def codes_of_events(broker: Broker) -> list[str]:
    """Return the error code of each event, empty where it tells of a success."""
    return [decode_event(value).error_code for _, value, _ in broker.on("inference.events") if value]


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
    failure = failure_result(
        error=MediaNotFound("no such key"),
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
    failure = failure_result(
        error=MediaNotFound("no such key: " + "k" * 20_000),
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


@dataclass
class Record:
    topic: str = "inference.requests.asr"
    partition: int = 3
    offset: int = 42
    timestamp: int = 0
    key: bytes | None = b"k"
    value: bytes | None = b"\xff"
    headers: tuple[tuple[str, bytes], ...] = (("a", b"1"), ("a", b"2"))


async def test_a_dead_letter_keeps_the_record_and_says_where_it_came_from_and_why() -> None:
    sent: list[Outgoing] = []

    async def deliver(*records: Outgoing) -> None:
        sent.extend(records)

    dead = Publisher(
        cast(Out, SimpleNamespace(deliver=deliver)),
        topics=Topics(),
        worker="w1",
        group="g1",
        max_message_bytes=10_000,
    )
    await dead.dead_letter(Record(), task="asr", stage="decode", error=Undecodable("no JSON"))
    headers = sent[0].headers
    assert (sent[0].topic, sent[0].key, sent[0].value) == ("inference.dlq.asr", b"k", b"\xff")
    assert headers[:2] == [("a", b"1"), ("a", b"2")]
    assert dict(headers[2:]) == {
        "__dlq.errors.topic": b"inference.requests.asr",
        "__dlq.errors.partition": b"3",
        "__dlq.errors.offset": b"42",
        "__dlq.errors.group": b"g1",
        "__dlq.errors.delivery.count": b"1",
        "__dlq.errors.stage": b"decode",
        "__dlq.errors.exception.class": b"UNDECODABLE",
        "__dlq.errors.message": b"no JSON",
    }
    assert sent[1].topic == "inference.events"


async def dead_letter(
    broker: Broker, record: Record, *, max_message_bytes: int = 10_000, **error: Any
) -> tuple[bytes | None, bytes | None, dict[str, bytes]]:
    """Publish the dead letter of `record` and return its key, value and headers."""
    await publisher(broker, max_message_bytes=max_message_bytes).dead_letter(
        record, task="asr", stage="decode", error=Undecodable(error.get("message", "no JSON"))
    )
    (letter,) = broker.on("inference.dlq.asr")
    assert len(broker.on("inference.events")) == 1
    assert letter[2]["__dlq.errors.offset"] == b"42"
    return letter


async def test_a_dead_letter_that_is_too_large_keeps_what_fits_of_its_value_and_says_so() -> None:
    value = b"\xff" * 9_900
    key, cut, headers = await dead_letter(Broker(most_bytes=10_000), Record(value=value))
    assert (key, headers["a"], headers["__dlq.errors.truncated"]) == (b"k", b"2", b"9900")
    assert cut is not None
    assert value.startswith(cut)
    assert 8_000 < len(cut) < 9_900


@pytest.mark.parametrize(
    "record",
    [
        Record(key=b"k" * 9_500, value=b"\xff" * 400),
        Record(headers=(("a", b"1" * 9_800),), value=b"\xff" * 100),
        Record(headers=tuple(("a", b"1") for _ in range(3_000)), value=b"\xff"),
        Record(key=b"k" * 9_900, value=None),
    ],
    ids=["key", "header", "headers", "no value"],
)
async def test_a_dead_letter_whose_key_or_headers_are_too_large_keeps_its_value(record: Record) -> None:
    key, value, headers = await dead_letter(Broker(most_bytes=10_000), record)
    assert (key, value) == (None, record.value or b"")
    assert "a" not in headers
    assert headers["__dlq.errors.truncated"] == str(len(record.value or b"")).encode()


async def test_a_dead_letter_fits_a_broker_that_takes_less_than_the_settings_say() -> None:
    value = b"\xff" * 9_000
    _, cut, headers = await dead_letter(
        Broker(most_bytes=5_000), Record(value=value), max_message_bytes=50_000
    )
    assert cut is not None
    assert value.startswith(cut)
    assert headers["__dlq.errors.truncated"] == b"9000"


async def test_why_a_message_is_a_dead_letter_is_told_in_a_thousand_characters() -> None:
    _, _, headers = await dead_letter(Broker(most_bytes=10_000), Record(), message="\ud800" + "é" * 20_000)
    assert headers["__dlq.errors.message"].decode() == "?" + "é" * 999


async def test_a_dead_letter_that_no_broker_takes_is_the_callers_to_handle() -> None:
    with pytest.raises(MessageSizeTooLargeError):
        await dead_letter(Broker(most_bytes=10), Record())


class Heard(Delivery):
    """Notes how the delivery ended."""

    outcomes: list[Exception | None] = msgspec.field(default_factory=list)

    def ended(self, error: Exception | None) -> None:
        self.outcomes.append(error)


def post(broker: Broker, result: dict[str, Any], **options: Any) -> list[Exception | None]:
    heard = Heard()
    assert publisher(broker, **options).post(
        result, task="text-generation", key=b"k", traceparent=None, delivery=heard
    )
    return heard.outcomes


def test_posting_publishes_the_same_records_and_tells_when_they_are_on_the_broker() -> None:
    broker = Broker()
    assert post(broker, success()) == [None]
    ((key, value, headers),) = broker.on("inference.results.text-generation")
    assert (key, headers["ce_id"]) == (b"k", b"r1")
    assert value is not None
    assert decode_result(value).success
    assert len(broker.on("inference.events")) == 1


def test_posting_tells_what_the_broker_refuses() -> None:
    refusal = MessageSizeTooLargeError()
    assert post(Broker(refusals={"inference.results.text-generation": refusal}), success()) == [refusal]


@pytest.mark.parametrize(
    ("refused_topic", "error", "codes"),
    [
        ("inference.events", KafkaTimeoutError(), [""]),
        ("inference.results.text-generation", KafkaTimeoutError(), [""]),
        ("inference.results.text-generation", MessageSizeTooLargeError(), ["", "RESULT_TOO_LARGE"]),
    ],
    ids=["event", "result", "size"],
)
async def test_what_is_refused_of_a_posted_result_is_published_again_and_what_is_not_stays_one(
    refused_topic: str, error: KafkaError, codes: list[str]
) -> None:
    broker, heard = Broker(refusals={refused_topic: error}), Heard()
    posting = publisher(broker)
    posting.post(success(), task="text-generation", key=b"k", traceparent="t", delivery=heard)
    assert heard.outcomes == [error]
    if codes[1:]:
        broker.refusals[refused_topic] = error
    await posting.refused(heard.refused, task="text-generation", traceparent="t")
    ((key, value, headers),) = broker.on("inference.results.text-generation")
    assert value is not None
    result = decode_result(value)
    assert (key, headers["traceparent"], result.id) == (b"k", b"t", "r1")
    assert codes_of_events(broker) == codes
    assert (result.error.code if result.error else "") == codes[-1]


def test_a_result_that_a_broker_may_find_too_large_is_not_posted_for_its_event_would_go_beside_it() -> None:
    broker = Broker()
    is_posted = publisher(broker).post(
        success("x" * 20_000), task="text-generation", key=b"k", traceparent=None, delivery=Heard()
    )
    assert (is_posted, broker.records) == (False, [])


def test_a_posted_result_that_is_too_large_becomes_a_failure_that_says_so() -> None:
    broker = Broker()
    post(broker, success("x" * 20_000), max_message_bytes=10_000)
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    assert json.loads(value)["error"]["code"] == "RESULT_TOO_LARGE"


async def test_a_result_without_a_json_form_becomes_a_failure_rather_than_the_end_of_the_worker() -> None:
    broker = Broker()
    result = success()
    result["result"]["odd"] = object()
    await publish(broker, result)
    ((_, value, _),) = broker.on("inference.results.text-generation")
    assert value is not None
    error = json.loads(value)["error"]
    assert (error["code"], "no JSON form" in error["message"]) == ("INTERNAL_ERROR", True)
