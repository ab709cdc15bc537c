"""The sink for records on Kafka: batches of aiokafka's producer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError

from streams.kafka.aiokafka_internals import fill
from streams.kafka.connection import is_passing_for

if TYPE_CHECKING:
    from streams.delivery.port import ProducerRecord


class ProducerSink:
    """Sends batches with an AIOKafkaProducer, whose own `send` makes two futures and finds a partition per record."""

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
