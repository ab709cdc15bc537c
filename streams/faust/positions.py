"""Owns the worker's positions: every fetched record is delivered, or fetched again.

Lives on the event loop of the consumer's thread. An assignment and its positions are one object. Between the check of
the assignment and the hand-over of buffered records there is no await, and the taker must have opened the generation.
So a record that is taken is delivered in its generation; or that generation has ended, and the next one begins at the
committed offsets. aiokafka has no reset policy, so it moves no position by itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer

from streams.delivery.port import Fetched, Positions, Record, TopicPartition
from streams.faust import group_offsets
from streams.faust.assignment import Assignment
from streams.kafka.aiokafka_internals import AssignedPartitions, Coordination, client_of, parse_fetches
from streams.kafka.broker_requests import topic_ids
from streams.kafka.header_names import ForgivingRecords
from streams.settings import KafkaSettings


class PartitionReader:
    """The positions of one aiokafka consumer, the records it fetched, and its commits."""

    consumer: AIOKafkaConsumer
    loop: asyncio.AbstractEventLoop
    """The consumer's event loop, on which everything here runs."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._assignment: Assignment | None = None
        self._is_open = False
        self._is_stopped = False
        self._is_comparing = False
        self._numbers = itertools.count(1)
        self._looking: set[asyncio.Task[None]] = set()
        self.removed_unread: Counter[TopicPartition] = Counter()
        """How many offsets the broker removed before they were read; other threads may copy it."""

    @property
    def stopped_partitions(self) -> dict[TopicPartition, str]:
        """The partitions that are not read until the worker restarts, with the reason; other threads may copy it."""
        return {} if self._assignment is None else self._assignment.stopped

    def attach(self, consumer: AIOKafkaConsumer) -> None:
        """Serve this consumer, which has just started; records that it fetches are made as `Record`.

        aiokafka's record has eleven fields and two objects, and ours would have to follow it. Objects that are made
        in one thread and freed in another cost far more than their bytes.
        """
        self.consumer, self.loop = consumer, asyncio.get_running_loop()
        parse_fetches(consumer, ForgivingRecords, record_of)
        # aiokafka calls this with every answer about topics, also after errors of fetches.
        client_of(consumer).cluster.add_listener(self._compare_topics)

    def close(self) -> None:
        """Hand over nothing more: a rebalance begins."""
        self._is_open = False

    async def stop(self) -> None:
        """End the background tasks and hand over nothing more."""
        self.close()
        self._is_stopped = True
        for looking in self._looking:
            looking.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)

    async def begin(self) -> int:
        """Set the positions of a new assignment, all at once, and return its generation.

        Called while the consumer joins a group, so no other rebalance can come meanwhile.

        Raises:
            KafkaError: permanent; the group may not be read.
            ConsumerClosing: the consumer is being stopped.
        """
        self.close()
        generation = next(self._numbers)
        partitions, coordination = AssignedPartitions(self.consumer), Coordination(self.consumer)
        member_generation = coordination.coordinator.generation
        committed = await group_offsets.committed(coordination, partitions.partitions)
        noted_ids = {topic: noted for (topic, _), (_, noted, _) in committed.items() if noted}
        # If no broker answers now, the ids of the topics are compared as soon as one does.
        ids = {**noted_ids, **await self._topic_ids(partitions)}
        self._assignment = Assignment(
            generation,
            member_generation,
            partitions,
            self._kafka.group_id,
            self._numbers,
            self.removed_unread,
            self._run_beside,
            ids,
        )
        self._assignment.start(committed)
        self._is_open = True
        partitions.wake()  # those that wait for records of the last generation
        return generation

    async def deliver(
        self,
        generation: int,
        partitions: Collection[TopicPartition],
        most: int,
        timeout_s: float,
        hand_over: Callable[[list[Fetched]], None],
    ) -> None:
        """Hand over up to `most` records of these partitions in one call; wait for them for a while.

        Hands over nothing where another generation has begun. `hand_over` must accept the records: they are not
        fetched again.

        Raises:
            KafkaError: permanent.
            PositionLost: permanent; aiokafka has moved a position.
            ConsumerClosing: the consumer is being stopped.
        """
        until = self.loop.time() + timeout_s
        while (assignment := self._assignment) is not None and assignment.generation == generation:
            is_open = self._is_open and assignment.partitions.is_present
            if is_open and (fetched := assignment.take(partitions, most)):
                hand_over(fetched)
                return
            left_s = until - self.loop.time()
            if left_s <= 0:
                return
            await assignment.partitions.arrival(left_s)

    async def commit(self, positions: Positions) -> dict[TopicPartition, int]:
        """Commit positions, as `RecordSource.commit` says.

        Raises:
            KafkaError: permanent; the broker refuses an offset, and retrying cannot help.
        """
        assignment = self._assignment
        if assignment is None or not assignment.partitions.holds:
            return {}
        # With the id of the topic, so that they do not count for another topic of that name.
        offsets = {
            place: (offset, assignment.topic_ids.get(place[0], ""), note)
            for place, (offset, epoch, note) in positions.items()
            if place in assignment.readings and assignment.readings[place].epoch == epoch
        }
        if not offsets:
            return {}
        return await group_offsets.commit(
            Coordination(self.consumer),
            assignment.member_generation,
            offsets,
            # Late enough for a slow broker, and early enough to look for another before the session ends.
            timeout_s=self._kafka.session_timeout_s / 2,
        )

    def _run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        if self._is_stopped:  # a rebalance may still end, and its work would be left behind
            work.close()
            return
        looking = asyncio.create_task(work, name="look at logs")
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    def _compare_topics(self, _: Any) -> None:
        """Check whether a topic was made again: old positions mean nothing in the new one, whatever its length."""
        if self._assignment is not None and not self._is_comparing:
            self._is_comparing = True
            self._run_beside(self._compare_ids(self._assignment))

    async def _compare_ids(self, assignment: Assignment) -> None:
        try:
            ids = await self._topic_ids(assignment.partitions)
        finally:
            self._is_comparing = False
        assignment.compare(ids)

    async def _topic_ids(self, partitions: AssignedPartitions) -> dict[str, str]:
        return await topic_ids(client_of(self.consumer), {topic for topic, _ in partitions.partitions})


def record_of(partition: Any, raw: Any) -> Record:
    """Return our record for one of aiokafka's raw records."""
    headers = raw.headers or ()  # nearly always none, and then no list is kept for each
    return Record(partition.topic, partition.partition, raw.offset, raw.timestamp, raw.key, raw.value, headers)
