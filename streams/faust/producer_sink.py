"""The sink for records on Kafka: batches of aiokafka's producer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError

from streams.kafka.connection import is_passing_for

if TYPE_CHECKING:
    from aiokafka.producer.message_accumulator import BatchBuilder

    from streams.delivery.port import ProducerRecord


class ProducerSink:
    """Sends batches with an AIOKafkaProducer: its own `send` makes two futures and finds a partition for each record.

    Lives on the event loop of its producer.
    """

    def __init__(self, producer: Callable[[], Any]) -> None:
        """`producer` returns the started AIOKafkaProducer."""
        self._producer = producer

    async def partitions(self, topic: str) -> list[int]:
        producer = self._producer()
        try:
            return sorted(await producer.partitions_for(topic))
        except UnknownTopicOrPartitionError as error:
            if await is_passing_for(producer, error):
                raise KafkaTimeoutError(f"no broker could be asked for topic {topic}") from error
            raise

    async def send(
        self, topic: str, partition: int, records: Sequence[ProducerRecord]
    ) -> tuple[int, Exception | None]:
        producer = self._producer()
        batch = producer.create_batch()
        count = fill(batch, records)
        try:
            await (await producer.send_batch(batch, topic, partition=partition))
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            return count, error
        return count, None


def fill(batch: BatchBuilder, records: Sequence[ProducerRecord]) -> int:
    """Append to a new batch as many of `records` as it has room for, at least one; return how many.

    As `BatchBuilder.append` does for one record, in about half its time: that asks for serializers, and for the time of
    day, each time.
    """
    append = batch._builder.append
    now_ms = int(time.time() * 1000)
    count = 0
    for record in records:
        if append(count, now_ms, record.key, record.value, record.headers) is None:
            break
        count += 1
    batch._relative_offset = count
    return count
