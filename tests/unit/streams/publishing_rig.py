"""A broker that takes and refuses like a real one, and a publisher before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from engines.run.outcomes import Outcomes
from engines.run.results import Result, result_of
from engines.run.statistics import Statistics
from streams.delivery.port import DeliveryReport, ProducerRecord
from streams.delivery.producer import BatchingProducer
from streams.delivery.publisher import Publisher, Reply
from streams.kafka.topics import Topics
from streams.messages import decode_event


@dataclass
class Broker:
    """Takes records like a producer, and refuses those for the topics in `refusals` and those above `most_bytes`."""

    refusals: dict[str, KafkaError] = field(default_factory=dict)
    most_bytes: int = 10**9
    records: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = field(default_factory=list)

    async def deliver(self, *records: ProducerRecord) -> None:
        refused = [error for record in records if (error := self._take(record)) is not None]
        if refused:
            raise refused[0]

    def post(self, records: Sequence[ProducerRecord], delivery: DeliveryReport) -> None:
        delivery.missing = len(records)
        for record in records:
            delivery.answered(record, self._take(record))

    def _take(self, record: ProducerRecord) -> KafkaError | None:
        if record.topic in self.refusals:
            return self.refusals.pop(record.topic)
        if size_of(record) > self.most_bytes:
            return MessageSizeTooLargeError()
        self.records.append((record.topic, record.key, record.value, dict(record.headers)))
        return None

    def on(self, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
        return [(key, value, headers) for name, key, value, headers in self.records if name == topic]


def size_of(record: ProducerRecord) -> int:
    """Return what aiokafka makes of the record, as a batch of its own."""
    batch = BatchBuilder(10**9, 0)
    assert batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
    return int(batch.size())


def publisher(broker: Broker, *, max_message_bytes: int = 100_000, outcomes: Outcomes | None = None) -> Publisher:
    return Publisher(
        cast(BatchingProducer, broker),
        topics=Topics(),
        outcomes=outcomes or Outcomes(Statistics()),
        worker="w1",
        group="g1",
        max_message_bytes=max_message_bytes,
        reply_topics=[r"replies\..+"],
    )


def success(text: str = "Paris") -> Result:
    return result_of(
        {"generated_text": text},
        id="r1",
        task="text-generation",
        engine="transformers",
        model_name="smollm2",
        processing_s=0.5,
        metadata={"run": 7},
        worker="w1",
    )


def codes_of_events(broker: Broker) -> list[str]:
    """Return the error code of each event, empty where it tells of a success."""
    return [decode_event(value).error_code for _, value, _ in broker.on("inference.events") if value]


class Heard(Reply, kw_only=True):
    """Notes how the delivery ended."""

    task: str = "text-generation"
    key: bytes | None = b"k"
    outcomes: list[Exception | None] = msgspec.field(default_factory=list)

    def ended(self, error: Exception | None) -> None:
        self.outcomes.append(error)
