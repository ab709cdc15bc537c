"""Dead letters: what is kept of a message, whatever the broker takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import (
    MessageSizeTooLargeError,
)

from engines.run.outcomes import Outcomes
from engines.run.statistics import Statistics
from handlers.errors import Undecodable
from streams.delivery.port import ProducerRecord, Record
from streams.delivery.producer import BatchingProducer
from streams.delivery.publisher import Publisher
from streams.kafka.topics import Topics
from tests.unit.streams.publishing_rig import Broker, publisher
from tests.unit.streams.received_messages import message


def undecodable(**changes: Any) -> Record:
    """Return a message with a value that is no JSON, but for `changes`."""
    fields: dict[str, Any] = {
        "partition": 3,
        "key": b"k",
        "value": b"\xff",
        "headers": (("a", b"1"), ("a", b"2")),
    }
    return message(42, **(fields | changes))


async def test_a_dead_letter_keeps_the_record_and_says_where_it_came_from_and_why() -> None:
    sent: list[ProducerRecord] = []

    async def deliver(*records: ProducerRecord) -> None:
        sent.extend(records)

    dead = Publisher(
        cast(BatchingProducer, SimpleNamespace(deliver=deliver)),
        topics=Topics(),
        outcomes=Outcomes(Statistics()),
        worker="w1",
        group="g1",
        max_message_bytes=10_000,
    )
    await dead.dead_letter(undecodable(), task="asr", stage="decode", error=Undecodable("no JSON"))
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
    key, cut, headers = await dead_letter(Broker(most_bytes=10_000), undecodable(value=value))
    assert (key, headers["a"], headers["__dlq.errors.truncated"]) == (b"k", b"2", b"9900")
    assert cut is not None
    assert value.startswith(cut)
    assert 8_000 < len(cut) < 9_900


@pytest.mark.parametrize(
    "record",
    [
        undecodable(key=b"k" * 9_500, value=b"\xff" * 400),
        undecodable(headers=(("a", b"1" * 9_800),), value=b"\xff" * 100),
        undecodable(headers=tuple(("a", b"1") for _ in range(3_000)), value=b"\xff"),
        undecodable(key=b"k" * 9_900, value=None),
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
    _, cut, headers = await dead_letter(Broker(most_bytes=5_000), undecodable(value=value), max_message_bytes=50_000)
    assert cut is not None
    assert value.startswith(cut)
    assert headers["__dlq.errors.truncated"] == b"9000"


async def test_why_a_message_is_a_dead_letter_is_told_in_a_thousand_characters() -> None:
    _, _, headers = await dead_letter(Broker(most_bytes=10_000), undecodable(), message="\ud800" + "é" * 20_000)
    assert headers["__dlq.errors.message"].decode() == "?" + "é" * 999


async def test_a_dead_letter_that_no_broker_takes_is_the_callers_to_handle() -> None:
    with pytest.raises(MessageSizeTooLargeError):
        await dead_letter(Broker(most_bytes=10), undecodable())


async def test_a_dead_letter_is_counted_once_the_broker_has_it() -> None:
    broker, statistics = Broker(), Statistics()
    producer = publisher(broker, outcomes=Outcomes(statistics))
    await producer.dead_letter(undecodable(), task="asr", stage="decode", error=Undecodable("no JSON"))
    assert statistics.snapshot()["dead_letters"] == {"UNDECODABLE": 1}
