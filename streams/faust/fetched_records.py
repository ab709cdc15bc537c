"""Has aiokafka make our objects of the records that the worker's consumer fetches, in place of its own.

A record of aiokafka's is made of eleven fields and two objects, and one of ours would have to follow; what is made in
one thread and freed in another costs far more than its bytes.
"""

from __future__ import annotations

from typing import Any

import aiokafka
from aiokafka.consumer import fetcher

from streams.delivery.offsets import Record
from streams.kafka.header_names import ForgivingRecords, seeing


def deliver_as_received(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Have all that `consumer` fetches delivered as `Record`, with header names read forgivingly.

    It is started and has no partitions yet, so that no fetch is under way. Other consumers of this process go on as
    they are.
    """
    consumer._fetcher.__class__ = _Fetcher


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of one partition."""

    def _consumer_record(self, tp: aiokafka.TopicPartition, record: Any) -> Record:
        headers = record.headers or ()  # nearly always none, and then no list is kept for each
        return Record(
            tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value, headers
        )


class _Fetcher(fetcher.Fetcher):  # type: ignore[misc]
    """aiokafka's fetcher, but for what it makes of an answer."""

    _proc_fetch_request = seeing(
        fetcher.Fetcher._proc_fetch_request,
        MemoryRecords=ForgivingRecords,
        PartitionRecords=_PartitionRecords,
    )
