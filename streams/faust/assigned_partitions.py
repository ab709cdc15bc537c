"""What the source of records needs of aiokafka's consumer, by names that are aiokafka's own business.

Nothing is decided here: `streams.faust.positions` does that. All runs on the event loop of the consumer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import aiokafka
from aiokafka import errors
from aiokafka.consumer.fetcher import FetchError
from aiokafka.protocol.commit import OffsetFetchRequest

from streams.delivery.offsets import PositionLost, Record, TopicPartition
from streams.kafka.broker_requests import topic_ids
from streams.kafka.patient_connections import client_of

_RETRY_S = 0.1
_COORDINATOR_MOVED = (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError)


class ConsumerClosing(Exception):
    """Raised where the consumer is being stopped, so that nothing more will come."""


class AssignedPartitions:
    """One assignment of aiokafka's consumer: its buffers and positions, for as long as it is the present one."""

    def __init__(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._subscription = consumer._subscription
        self._assignment = consumer._subscription.subscription.assignment
        self._fetcher = consumer._fetcher
        self.member_generation: int = consumer._coordinator.generation
        """What the broker calls the generation of this assignment."""

    @property
    def holds(self) -> bool:
        """Whether no other has followed."""
        subscription = self._subscription.subscription
        return subscription is not None and subscription.assignment is self._assignment

    @property
    def is_present(self) -> bool:
        """Whether it holds, and no rebalance has begun."""
        return self.holds and not self._subscription.reassignment_in_progress

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        return self._assignment.tps  # type: ignore[no-any-return]

    async def committed(self) -> dict[TopicPartition, tuple[int, str]]:
        """Return what the group has for these partitions, by one request; without those for which it has nothing.

        Offsets, and what was noted with them.

        Asks again for as long as the coordinator cannot tell. aiokafka's own way asks for one partition after the
        other, and takes a coordinator that cannot tell for one that has nothing.

        Raises:
            KafkaError: permanent; the group may not be read.
            ConsumerClosing: the consumer is being stopped.
        """
        coordinator = self._consumer._coordinator
        by_topic = defaultdict(list)
        for topic, number in self.partitions:
            by_topic[topic].append(number)
        request = OffsetFetchRequest(coordinator.group_id, list(by_topic.items()))
        while not coordinator._closing.done():
            await coordinator.ensure_coordinator_known()
            try:
                return _offsets(await coordinator._send_req(request))
            except errors.KafkaError as error:
                if isinstance(error, _COORDINATOR_MOVED):
                    coordinator.coordinator_dead()
                elif not error.retriable:
                    raise
            await asyncio.wait([coordinator._closing], timeout=_RETRY_S)
        raise ConsumerClosing

    async def starts(
        self, partitions: Iterable[TopicPartition], *, timeout_s: float
    ) -> Mapping[TopicPartition, int]:
        """Return where the logs of these partitions begin.

        Raises:
            KafkaError: retryable; a broker did not tell in time.
        """
        asked = [aiokafka.TopicPartition(*one) for one in partitions]
        starts: Mapping[TopicPartition, int] = await self._fetcher.beginning_offsets(
            asked, int(timeout_s * 1000)
        )
        return starts

    async def topic_ids(self) -> dict[str, str]:
        """Return the ids of its topics, as far as brokers tell."""
        return await topic_ids(client_of(self._consumer), {topic for topic, _ in self.partitions})

    def missing_topics(self) -> set[str]:
        """Return the topics that are subscribed to and have no partitions, as far as is known."""
        known = self._consumer.partitions_for_topic
        return {topic for topic in self._consumer.subscription() if not known(topic)}

    async def look_again(self) -> None:
        """Ask a broker which topics and partitions there are; where that is news, a rebalance begins."""
        await client_of(self._consumer).force_metadata_update()

    def position(self, partition: TopicPartition) -> int | None:
        """Return from where aiokafka fetches next, None where that is open."""
        return self._assignment.state_value(partition)._position  # type: ignore[no-any-return]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Fetch from `offset` on, and forget what is buffered."""
        self._fetcher.seek_to(partition, offset)

    def pause(self, partition: TopicPartition) -> None:
        """Fetch no more of it, and forget what is buffered."""
        self._subscription.pause(partition)
        self._fetcher._records.pop(partition, None)

    def buffered(self) -> list[TopicPartition]:
        """Return the partitions of which there is something to take, those that have waited longest first."""
        return list(self._fetcher._records)

    def error(self, partition: TopicPartition) -> Exception | None:
        """Return what the broker answered instead of records, None where it did not."""
        held = self._fetcher._records.get(partition)
        return held._error if isinstance(held, FetchError) else None

    def drop(self, partition: TopicPartition) -> None:
        """Forget what is buffered, and have more fetched."""
        del self._fetcher._records[partition]
        self._fetcher._notify(self._fetcher._wait_consume_future)

    def take(
        self, partition: TopicPartition, position: int, most: int
    ) -> tuple[list[Record], int, Exception | None, int | None]:
        """Take up to `most` records from `position` on out of the buffer and move the position behind them.

        Return the records, the new position, and where the next record cannot be read: why, and the offset behind
        its batch as far as that can be told. Nothing is awaited, so no rebalance comes between.

        Raises:
            PositionLost: permanent; the buffer does not begin at `position`.
        """
        held = self._fetcher._records[partition]._partition_records
        if not held.next_fetch_offset == self.position(partition) == position:
            topic, number = partition
            raise PositionLost(
                f"topic {topic} partition {number}: offset {position} was due and aiokafka "
                f"goes on at offset {held.next_fetch_offset}; the worker stops, and what is behind the committed "
                "offset is delivered again"
            )
        records: list[Record] = []
        damage: Exception | None = None
        try:
            records.extend(islice(held, most))  # keeps what came before an error
        except Exception as error:  # noqa: BLE001 - codecs raise what they like; the source reports it
            damage = error
        end = held.next_fetch_offset
        self._assignment.state_value(partition).consumed_to(end)
        if damage is not None or len(records) < most:
            self.drop(partition)
        behind = None if damage is None else held._records.behind_batch
        return records, end, damage, behind

    async def arrival(self, timeout_s: float) -> None:
        """Return when something was fetched, at the latest after `timeout_s`.

        Raises:
            KafkaError: permanent; the group cannot go on, or the fetcher has died.
            ConsumerClosing: the consumer is being stopped.
        """
        fetcher = self._fetcher
        if self._consumer._closed or fetcher._closed:
            raise ConsumerClosing
        waiter = fetcher._create_fetch_waiter()
        try:
            await asyncio.wait(
                [waiter, fetcher._fetch_task], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if waiter.done():
                waiter.result()
        finally:
            waiter.cancel()
        if self._consumer._closed or fetcher._closed:
            raise ConsumerClosing
        if fetcher._fetch_task.done():
            fetcher._fetch_task.result()

    def wake(self) -> None:
        """Let those that await an arrival look again."""
        for waiter in list(self._fetcher._fetch_waiters):
            self._fetcher._notify(waiter)


def _offsets(response: Any) -> dict[TopicPartition, tuple[int, str]]:
    """Return the offsets of an answer.

    Raises:
        KafkaError: the broker could not tell, or would not.
    """
    if response.API_VERSION >= 2:
        _check(response.error_code)
    offsets = {}
    for topic, partitions in response.topics:
        for number, offset, metadata, error_code in partitions:
            if errors.for_code(error_code) is errors.UnknownTopicOrPartitionError:
                continue
            _check(error_code)
            if offset >= 0:
                offsets[(topic, number)] = (offset, metadata or "")
    return offsets


def _check(error_code: int) -> None:
    error = errors.for_code(error_code)
    if error is not errors.NoError:
        raise error()
