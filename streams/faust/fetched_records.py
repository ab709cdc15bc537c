"""Has aiokafka make our own objects of the records that the worker's consumer fetches, instead of its own.

A record of aiokafka's is made of eleven fields and two objects, and one of ours would have to follow; what is made in
one thread and freed in another costs far more than its bytes.
"""

from __future__ import annotations

from typing import Any

import aiokafka
from aiokafka.consumer import fetcher

from streams.delivery.offsets import Record


def deliver_as_received(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Have all that `consumer`, which is not started yet, fetches delivered as `Record`.

    Other consumers of this process go on as they are.
    """
    consumer._value_deserializer = _as_received
    fetcher.PartitionRecords = _PartitionRecords


def _as_received(value: bytes | None) -> bytes | None:
    """Mark a consumer: the only thing of it that its records are told is how it reads values."""
    return value


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of one partition."""

    def _consumer_record(self, tp: aiokafka.TopicPartition, record: Any) -> Any:
        if self._value_deserializer is not _as_received:
            return super()._consumer_record(tp, record)
        headers = record.headers or ()  # nearly always none, and then no list is kept for each
        return Record(
            tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value, headers
        )
