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
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, RecordTooLargeError

from streams.acks import UNKNOWN_OFFSET, Fetched, Place, Received
from streams.assigned_partitions import AssignedPartitions

log = structlog.get_logger(__name__)

_READS_OF_DAMAGE = 3
"""How often a batch is fetched before its partition stops: it may have been damaged on its way."""
_FIND_START_S = 5.0
_FIND_START_AGAIN_S = 1.0
_LOOK_FOR_TOPICS_S = 2.0


@dataclass(slots=True, eq=False)
class _Reading:
    """How far one partition is read."""

    epoch: int
    position: int | None
    """Where the next record taken has to come from; None until it is known where the log begins."""
    committed: int | None
    begins: bool = True
    """Whether nothing of this epoch was taken yet."""
    is_lost: bool = False
    """Whether it is being looked up where the log begins."""
    damaged_at: tuple[int, int] = (-1, 0)
    """The position of a batch that could not be read, and how often."""


@dataclass(slots=True, eq=False)
class _Assignment:
    generation: int
    partitions: AssignedPartitions
    readings: dict[Place, _Reading]
    due: list[Fetched] = field(default_factory=list)
    """What has to be delivered though it holds no records."""
    fault: BaseException | None = None
    """What ended the search for the start of a log."""


class RecordSource:
    """Positions of one aiokafka consumer, and what it fetched."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._consumer: AIOKafkaConsumer | None = None
        self._assignment: _Assignment | None = None
        self._is_open = False
        self._numbers = itertools.count(1)
        self._looking: set[asyncio.Task[None]] = set()
        self.stopped: dict[Place, str] = {}
        """Why no more is read of a partition; another thread may read a copy."""
        self.removed_unread: Counter[Place] = Counter()
        """How many offsets the broker had removed before they were read; another thread may read a copy."""

    def attach(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

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
        readings = {}
        for one in partitions.partitions:
            offset = committed.get(one)
            readings[one] = _Reading(next(self._numbers), offset, offset)
            if offset is not None:
                partitions.seek(one, offset)
        assignment = self._assignment = _Assignment(generation, partitions, readings)
        self._is_open = True
        self.stopped.clear()
        without = [one for one in readings if one not in committed]
        for topic in {topic for topic, _ in without}:
            self._look_for_starts(assignment, [one for one in without if one[0] == topic])
        if partitions.missing_topics():
            self._run_beside(self._look_for_topics(partitions))
        partitions.wake()  # whoever waits for what the generation before would have brought
        return generation

    @property
    def member_generation(self) -> int | None:
        """What the broker calls the generation of the present assignment."""
        return None if self._assignment is None else self._assignment.partitions.member_generation

    def epochs(self, places: Collection[Place]) -> dict[Place, int]:
        """Return the present epochs of those `places` that are assigned; none while a rebalance changes them."""
        assignment = self._assignment
        if assignment is None or not assignment.partitions.holds:
            return {}
        return {one: assignment.readings[one].epoch for one in places if one in assignment.readings}

    async def deliver(
        self,
        generation: int,
        partitions: Collection[Place],
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

    def _take(self, assignment: _Assignment, places: Collection[Place], most: int) -> list[Fetched]:
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
                    assignment.partitions.drop(partition)
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
        self, assignment: _Assignment, partition: Place, reading: _Reading, most: int
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
        assignment: _Assignment,
        partition: Place,
        reading: _Reading,
        start: int,
        records: Sequence[Received],
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

    def _answer(self, assignment: _Assignment, partition: Place, error: Exception) -> bool:
        """Do what an error in place of records calls for; return False where that is not known."""
        if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
            self._look_for_starts(assignment, [partition])
        elif isinstance(error, RecordTooLargeError):
            self._stop(assignment, partition, "it is larger than a fetch, or says so", None)
        else:
            return False
        return True

    def _count_damage(
        self,
        assignment: _Assignment,
        partition: Place,
        reading: _Reading,
        damage: Exception,
        behind: int | None,
    ) -> None:
        offset, reads = reading.damaged_at
        reads = reads + 1 if offset == reading.position else 1
        reading.damaged_at = (reading.position or 0, reads)
        if reads == _READS_OF_DAMAGE:
            self._stop(assignment, partition, f"{type(damage).__name__}: {damage}", behind)

    def _stop(self, assignment: _Assignment, partition: Place, reason: str, behind: int | None) -> None:
        """Read no more of a partition whose next batch cannot be read; all others go on."""
        assignment.partitions.pause(partition)
        topic, number = partition
        offset = assignment.readings[partition].position
        to_offset = "the offset behind it" if behind is None else str(behind)
        self.stopped[(topic, number)] = why = (
            f"the batch at offset {offset} of topic {topic} partition {number} cannot be read ({reason}); what is "
            "before it is answered, what is behind it waits, other partitions go on. To go on behind it stop the "
            f"workers of group {self._group_id}, run kafka-consumer-groups.sh --bootstrap-server <broker> "
            f"--group {self._group_id} --topic {topic}:{number} --reset-offsets --to-offset {to_offset} --execute, "
            "and start them again"
        )
        log.error("partition_stopped", topic=topic, partition=number, offset=offset, error=why)

    def _look_for_starts(self, assignment: _Assignment, partitions: Sequence[Place]) -> None:
        for one in partitions:
            assignment.readings[one].is_lost = True
        self._run_beside(self._find_starts(assignment, partitions))

    def _run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        looking = asyncio.create_task(work, name="look at logs")
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    async def _look_for_topics(self, partitions: AssignedPartitions) -> None:
        """Have topics that are missing read as soon as they are made."""
        while partitions.holds and partitions.missing_topics():
            await asyncio.sleep(_LOOK_FOR_TOPICS_S)
            await partitions.look_again()

    async def _find_starts(self, assignment: _Assignment, partitions: Sequence[Place]) -> None:
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
        except Exception as error:  # noqa: BLE001 - whoever takes next raises it
            assignment.fault = error
        assignment.partitions.wake()

    def _go_on_at(self, assignment: _Assignment, partition: Place, start: int) -> None:
        """Read a partition from the start of its log on."""
        if not assignment.partitions.holds:
            return
        reading = assignment.readings[partition]
        before, reading.position, reading.is_lost = reading.position, start, False
        assignment.partitions.seek(partition, start)
        if before is None:
            return
        topic, number = partition
        if start > before:
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
            # It ended before the position: made again, cut off or restored. Nothing tells which of its records are
            # new, so all are.
            reading.epoch = next(self._numbers)
            reading.begins = True
            reading.committed = UNKNOWN_OFFSET
            log.warning("log_replaced", topic=topic, partition=number, from_offset=before, to_offset=start)
            assignment.due.append(self._fetched(assignment, partition, reading, start, ()))
