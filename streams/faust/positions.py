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
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, RecordTooLargeError

from handlers.logger import get_logger
from streams.delivery.offsets import UNKNOWN_OFFSET, Fetched, Record, TopicPartition
from streams.faust.assigned_partitions import AssignedPartitions
from streams.faust.readings import Assignment, Reading, unreadable
from streams.kafka.patient_connections import client_of

log = get_logger(__name__)

_READS_OF_DAMAGE = 3
"""How often a batch is fetched before its partition stops: it may have been damaged on its way."""
_FIND_START_S = 5.0
_FIND_START_AGAIN_S = 1.0
_LOOK_FOR_TOPICS_S = 2.0


class PartitionReader:
    """Positions of one aiokafka consumer, and what it fetched."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._consumer: AIOKafkaConsumer | None = None
        self._assignment: Assignment | None = None
        self._is_open = False
        self._is_comparing = False
        self._numbers = itertools.count(1)
        self._looking: set[asyncio.Task[None]] = set()
        self.stopped: dict[TopicPartition, str] = {}
        """Why no more is read of a partition; another thread may read a copy."""
        self.removed_unread: Counter[TopicPartition] = Counter()
        """How many offsets the broker had removed before they were read; another thread may read a copy."""

    def attach(self, consumer: AIOKafkaConsumer) -> None:
        """Serve this consumer, which is not started yet."""
        self._consumer = consumer
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
        self._is_open = False
        generation = next(self._numbers)
        partitions = AssignedPartitions(self._consumer)
        committed = await partitions.committed()
        noted_ids = {topic: noted for (topic, _), (_, noted) in committed.items() if noted}
        # Where no broker tells at present, what was noted is compared as soon as one does.
        ids = {**noted_ids, **await partitions.topic_ids()}
        readings = {}
        for one in partitions.partitions:
            offset, noted = committed.get(one, (None, ""))
            reading = readings[one] = Reading(next(self._numbers), offset, offset)
            if noted and noted != ids[one[0]]:
                reading.is_replaced = True
            elif offset is not None:
                partitions.seek(one, offset)
        assignment = self._assignment = Assignment(generation, partitions, readings, ids)
        self._is_open = True
        self.stopped.clear()
        without = [
            one for one, reading in readings.items() if reading.is_replaced or reading.position is None
        ]
        for topic in {topic for topic, _ in without}:
            self._look_for_starts(assignment, [one for one in without if one[0] == topic])
        if partitions.missing_topics():
            self._run_beside(self._look_for_topics(partitions))
        partitions.wake()  # those that wait for records of the generation before
        return generation

    def note(self, topic: str) -> str:
        """Return what is to be noted with offsets of `topic`, so that they are not taken for those of another."""
        return "" if self._assignment is None else self._assignment.topic_ids.get(topic, "")

    @property
    def member_generation(self) -> int | None:
        """What the broker calls the generation of the present assignment."""
        return None if self._assignment is None else self._assignment.partitions.member_generation

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
        until = asyncio.get_running_loop().time() + timeout_s
        while (assignment := self._assignment) is not None and assignment.generation == generation:
            if fetched := self._take(assignment, partitions, most):
                hand_over(fetched)
                return
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await assignment.partitions.arrival(left_s)

    def _take(self, assignment: Assignment, places: Collection[TopicPartition], most: int) -> list[Fetched]:
        if not self._is_open or not assignment.partitions.is_present:
            return []
        if assignment.fault is not None:
            raise assignment.fault
        taken = [one for one in assignment.due if one.place in places]
        assignment.due = [one for one in assignment.due if one.place not in places]
        for partition in assignment.partitions.buffered():
            reading = assignment.readings[partition]
            # While the start is looked for, the error stays where it is: aiokafka would ask again and again.
            if partition not in places or reading.is_lost:
                continue
            if error := assignment.partitions.error(partition):
                if not self._answer(assignment, partition, error) and not taken:
                    self._drop_alike(assignment, places, error)
                    raise error
                continue
            fetched = self._take_of(assignment, partition, reading, most)
            if fetched is not None:
                taken.append(fetched)
                most -= len(fetched.records)
                if most <= 0:
                    break
        return taken

    def _take_of(
        self, assignment: Assignment, partition: TopicPartition, reading: Reading, most: int
    ) -> Fetched | None:
        assert reading.position is not None
        start = reading.position
        records, end, damage, behind = assignment.partitions.take(partition, start, most)
        reading.position = end
        if damage is not None:
            self._count_damage(assignment, partition, reading, damage, behind)
        if end == start and not records:
            return None
        return self._fetched(assignment, partition, reading, start, records)

    def _fetched(
        self,
        assignment: Assignment,
        partition: TopicPartition,
        reading: Reading,
        start: int,
        records: Sequence[Record],
    ) -> Fetched:
        """Return what is delivered next of a partition: all from `start` up to its position."""
        assert reading.position is not None
        begins, reading.begins = reading.begins, False
        return Fetched(
            *partition,
            assignment.generation,
            reading.epoch,
            start,
            reading.position,
            records,
            begins,
            reading.committed,
        )

    def _answer(self, assignment: Assignment, partition: TopicPartition, error: Exception) -> bool:
        """Do what an error in place of records calls for; return False where that is not known."""
        if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
            self._look_for_starts(assignment, [partition])
        elif isinstance(error, RecordTooLargeError):
            self._stop(assignment, partition, "it is larger than a fetch, or says so", None)
        else:
            return False
        return True

    def _drop_alike(
        self, assignment: Assignment, places: Collection[TopicPartition], error: Exception
    ) -> None:
        """Have all of `places` fetched again that got this answer: raised one by one, each would cost a pause."""
        for one in assignment.partitions.buffered():
            if one in places and type(assignment.partitions.error(one)) is type(error):
                assignment.partitions.drop(one)

    def _count_damage(
        self,
        assignment: Assignment,
        partition: TopicPartition,
        reading: Reading,
        damage: Exception,
        behind: int | None,
    ) -> None:
        offset, reads = reading.damaged_at
        reads = reads + 1 if offset == reading.position else 1
        reading.damaged_at = (reading.position or 0, reads)
        if reads == _READS_OF_DAMAGE:
            self._stop(assignment, partition, f"{type(damage).__name__}: {damage}", behind)

    def _stop(
        self, assignment: Assignment, partition: TopicPartition, reason: str, behind: int | None
    ) -> None:
        """Read no more of a partition whose next batch cannot be read; all others go on."""
        assignment.partitions.pause(partition)
        topic, number = partition
        offset = assignment.readings[partition].position
        self.stopped[topic, number] = why = unreadable(partition, offset, reason, behind, self._group_id)
        log.error("partition_stopped", topic=topic, partition=number, offset=offset, error=why)

    def _look_for_starts(self, assignment: Assignment, partitions: Sequence[TopicPartition]) -> None:
        for one in partitions:
            assignment.readings[one].is_lost = True
        self._run_beside(self._find_starts(assignment, partitions))

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
            ids = await assignment.partitions.topic_ids()
        finally:
            self._is_comparing = False
        for topic, topic_id in ids.items():
            before = assignment.topic_ids.setdefault(topic, topic_id)
            if before == topic_id or not assignment.partitions.holds:
                continue
            assignment.topic_ids[topic] = topic_id
            replaced = [one for one in assignment.readings if one[0] == topic]
            for one in replaced:
                reading = assignment.readings[one]
                reading.is_replaced = True
                reading.epoch = next(
                    self._numbers
                )  # so that nothing of the log before is committed from now on
            self._look_for_starts(assignment, replaced)

    async def _look_for_topics(self, partitions: AssignedPartitions) -> None:
        """Have topics that are missing read as soon as they are made."""
        while partitions.holds and partitions.missing_topics():
            await asyncio.sleep(_LOOK_FOR_TOPICS_S)
            await partitions.look_again()

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
                        for partition in group:
                            self._go_on_at(assignment, partition, starts[partition])
                    elif isinstance(starts, KafkaError):
                        log.warning(
                            "log_start_unknown", partitions=[tuple(one) for one in group], error=str(starts)
                        )
                        left += group
                    else:
                        raise starts
                groups = [[one] for one in left]  # one whose broker is away holds up no other
                if groups:
                    await asyncio.sleep(_FIND_START_AGAIN_S)
        except Exception as error:  # noqa: BLE001 - the next fetch raises it
            assignment.fault = error
        assignment.partitions.wake()

    def _go_on_at(self, assignment: Assignment, partition: TopicPartition, start: int) -> None:
        """Read a partition from the start of its log on."""
        if not assignment.partitions.holds:
            return
        reading = assignment.readings[partition]
        before, reading.position, reading.is_lost = reading.position, start, False
        is_replaced, reading.is_replaced = reading.is_replaced, False
        assignment.partitions.seek(partition, start)
        if before is None and not is_replaced:
            return
        topic, number = partition
        if before is not None and start > before and not is_replaced:
            self.removed_unread[(topic, number)] += start - before
            log.warning(
                "unread_records_removed",
                topic=topic,
                partition=number,
                from_offset=before,
                to_offset=start,
                count=start - before,
            )
            assignment.due.append(self._fetched(assignment, partition, reading, before, ()))
        else:
            # Made again; or it ended before the position: cut off or restored. Nothing tells which of its records
            # are new, so all are.
            reading.epoch = next(self._numbers)
            reading.begins = True
            reading.committed = UNKNOWN_OFFSET
            if before != start:
                log.warning(
                    "log_replaced", topic=topic, partition=number, from_offset=before, to_offset=start
                )
            assignment.due.append(self._fetched(assignment, partition, reading, start, ()))
