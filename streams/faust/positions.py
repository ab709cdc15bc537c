"""The one owner of the worker's positions: what was fetched is delivered, or fetched again.

Lives on the event loop of the consumer's thread. An assignment and its positions are one object. Records are taken
out of aiokafka's buffers without an await between the look at the assignment and the hand-over, and only for the
generation that the taker has opened. So what is taken is delivered in its generation, or that generation has ended,
and the next one begins at the committed offsets. aiokafka moves no position by itself: it has no reset policy.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from handlers.logger import get_logger
from streams.delivery.port import Fetched, Positions, Record, TopicPartition
from streams.faust import group_offsets
from streams.faust.assignment import Assignment
from streams.kafka.aiokafka_internals import AssignedPartitions, Coordination, client_of, parse_fetches
from streams.kafka.broker_requests import topic_ids
from streams.kafka.header_names import ForgivingRecords
from streams.settings import KafkaSettings

log = get_logger(__name__)

_FIND_START_S = 5.0
_FIND_START_AGAIN_S = 1.0


class PartitionReader:
    """Positions of one aiokafka consumer, what it fetched, and what is committed of it."""

    consumer: AIOKafkaConsumer
    loop: asyncio.AbstractEventLoop
    """That of the consumer, where all of this runs."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._assignment: Assignment | None = None
        self._is_open = False
        self._is_comparing = False
        self._numbers = itertools.count(1)
        self._looking: set[asyncio.Task[None]] = set()
        self.removed_unread: Counter[TopicPartition] = Counter()
        """How many offsets the broker had removed before they were read; another thread may read a copy."""

    @property
    def stopped(self) -> dict[TopicPartition, str]:
        """Why no more is read of a partition; another thread may read a copy."""
        return {} if self._assignment is None else self._assignment.stopped

    def attach(self, consumer: AIOKafkaConsumer) -> None:
        """Serve this consumer, which was just started: what it fetches comes as `Record`, and nobody else's does.

        A record of aiokafka's is made of eleven fields and two objects, and one of ours would have to follow; what is
        made in one thread and freed in another costs far more than its bytes.
        """
        self.consumer, self.loop = consumer, asyncio.get_running_loop()
        parse_fetches(consumer, ForgivingRecords, record_of)
        # Called with every answer about topics, which it does after errors of fetches too.
        client_of(consumer).cluster.add_listener(self._compare_topics)

    def close(self) -> None:
        """Let nothing be taken any more: a rebalance begins."""
        self._is_open = False

    async def stop(self) -> None:
        """End what runs beside; nothing is taken any more."""
        self.close()
        for looking in self._looking:
            looking.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)

    async def begin(self) -> int:
        """Set the positions of a new assignment, all at once, and return its generation.

        Called while the consumer joins a group, so that no other rebalance comes meanwhile.

        Raises:
            KafkaError: permanent; the group may not be read.
            ConsumerClosing: the consumer is being stopped.
        """
        self.close()
        generation = next(self._numbers)
        partitions, coordination = AssignedPartitions(self.consumer), Coordination(self.consumer)
        member_generation = coordination.generation
        committed = await group_offsets.committed(coordination, partitions.partitions)
        noted_ids = {topic: noted for (topic, _), (_, noted, _) in committed.items() if noted}
        # Where no broker tells at present, what was noted is compared as soon as one does.
        ids = {**noted_ids, **await self._topic_ids(partitions)}

        def find_starts(places: list[TopicPartition]) -> None:
            self._run_beside(self._find_starts(assignment, places))

        assignment = self._assignment = Assignment(
            generation,
            member_generation,
            partitions,
            self._kafka.group_id,
            self._numbers,
            self.removed_unread,
            find_starts,
            ids,
        )
        assignment.start(committed)
        self._is_open = True
        partitions.wake()  # those that wait for records of the generation before
        return generation

    def epochs(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the present epochs of those `places` that are assigned; none while a rebalance changes them."""
        assignment = self._assignment
        if assignment is None or not assignment.partitions.holds:
            return {}
        return {one: assignment.readings[one].epoch for one in places if one in assignment.readings}

    async def deliver(
        self,
        generation: int,
        partitions: Collection[TopicPartition],
        most: int,
        timeout_s: float,
        hand_over: Callable[[list[Fetched]], None],
    ) -> None:
        """Hand over what there is of these partitions, or comes in time: up to `most` records, in one call.

        Nothing where another generation has begun. `hand_over` must take it: it is not fetched again.

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
        """Commit positions, as `RecordSource.commit` has it.

        Raises:
            KafkaError: permanent; the broker refuses an offset for a reason that no waiting ends.
        """
        present, assignment = self.epochs(positions.keys()), self._assignment
        # With the id of the topic, so that they are not taken for offsets of another by the same name.
        offsets = {
            place: (offset, assignment.topic_ids.get(place[0], ""), note)
            for place, (offset, epoch, note) in positions.items()
            if assignment is not None and present.get(place) == epoch
        }
        if assignment is None or not offsets:
            return {}
        return await group_offsets.commit(
            Coordination(self.consumer),
            assignment.member_generation,
            offsets,
            # Late enough for a slow broker, and early enough to look for another before the session ends.
            timeout_s=self._kafka.session_timeout_s / 2,
        )

    def _run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        looking = asyncio.create_task(work, name="look at logs")
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    def _compare_topics(self, _: Any) -> None:
        """Look whether a topic was made again: its positions say nothing of the new one, whatever its length."""
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

    async def _find_starts(self, assignment: Assignment, partitions: Sequence[TopicPartition]) -> None:
        """Set the positions of partitions to where their logs begin, as soon as the brokers tell."""
        groups = [list(partitions)]
        try:
            while groups and assignment.partitions.holds:
                asked = [assignment.partitions.starts(group, timeout_s=_FIND_START_S) for group in groups]
                answers = await asyncio.gather(*asked, return_exceptions=True)
                left = []
                for group, starts in zip(groups, answers, strict=True):
                    if not isinstance(starts, BaseException):
                        for place in group:
                            assignment.go_on_at(place, starts[place])
                    elif isinstance(starts, KafkaError):
                        told = [tuple(one) for one in group]
                        log.warning("log_start_unknown", partitions=told, error=str(starts))
                        left += group
                    else:
                        raise starts
                groups = [[one] for one in left]  # one whose broker is away holds up no other
                if groups:
                    await asyncio.sleep(_FIND_START_AGAIN_S)
        except Exception as error:  # noqa: BLE001 - the next fetch raises it
            assignment.fault = error
        assignment.partitions.wake()


def record_of(partition: Any, raw: Any) -> Record:
    """Return what is delivered of one of aiokafka's raw records of a partition."""
    headers = raw.headers or ()  # nearly always none, and then no list is kept for each
    return Record(
        partition.topic, partition.partition, raw.offset, raw.timestamp, raw.key, raw.value, headers
    )
