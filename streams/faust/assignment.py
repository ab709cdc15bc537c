"""One assignment of the group: how far each of its partitions is read, and which records are next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, RecordTooLargeError

from handlers.logger import get_logger
from streams.delivery.port import UNKNOWN_OFFSET, Fetched, PositionLost, Record, TopicPartition
from streams.kafka.aiokafka_internals import AssignedPartitions

log = get_logger(__name__)

_FIND_START_S = 5.0
_FIND_START_AGAIN_S = 1.0
_READS_OF_DAMAGE = 3
"""How often a batch is fetched before its partition stops: it may have been damaged in transit."""


@dataclass(slots=True, eq=False)
class Reading:
    """How far one partition is read."""

    epoch: int
    position: int | None
    """The offset of the next record to take; None while the start of the log is looked up."""
    committed: int | None
    note: str
    """The metadata of the committed offset."""
    begins: bool = True
    """Whether nothing of this epoch was taken yet."""
    is_lost: bool = False
    """Whether the start of the log is being looked up."""
    is_replaced: bool = False
    """Whether its log is known to have replaced the one that was read."""
    damaged_at: tuple[int, int] = (-1, 0)
    """The position of a batch that could not be read, and how often it was fetched."""


@dataclass(slots=True, eq=False)
class Assignment:
    """One assignment of partitions, for as long as it lasts."""

    generation: int
    member_generation: int
    """The broker's number of it."""
    partitions: AssignedPartitions
    group_id: str
    numbers: Iterator[int]
    """Numbers for epochs, each used once."""
    removed_unread: Counter[TopicPartition]
    run_beside: Callable[[Coroutine[Any, Any, None]], None]
    """Runs a coroutine beside, until the consumer is being stopped at the latest."""
    topic_ids: dict[str, str]
    readings: dict[TopicPartition, Reading] = field(default_factory=dict)
    stopped: dict[TopicPartition, str] = field(default_factory=dict)
    """Partitions that are not read any more, with the reason."""
    due: list[Fetched] = field(default_factory=list)
    """Fetches without records that must be delivered."""
    fault: BaseException | None = None
    """The error that ended the search for the start of a log; the next take raises it."""

    def start(self, committed: Mapping[TopicPartition, tuple[int, str, str]]) -> None:
        """Set all positions to the committed offsets, and look up the start of logs whose topic was made again."""
        for place in self.partitions.partitions:
            offset, noted, note = committed.get(place, (None, "", ""))
            reading = self.readings[place] = Reading(next(self.numbers), offset, offset, note)
            if noted and noted != self.topic_ids[place[0]]:
                reading.is_replaced = True
            elif offset is not None:
                self.partitions.seek(place, offset)
        without = [one for one, it in self.readings.items() if it.is_replaced or it.position is None]
        for topic in {topic for topic, _ in without}:
            self._lose([one for one in without if one[0] == topic])

    def take(self, places: Collection[TopicPartition], most: int) -> list[Fetched]:
        """Return the available records of these partitions, up to `most`.

        Raises:
            KafkaError: permanent.
            PositionLost: permanent; aiokafka has moved a position.
        """
        if self.fault is not None:
            raise self.fault
        taken = [one for one in self.due if one.place in places]
        self.due = [one for one in self.due if one.place not in places]
        for place in self.partitions.buffered():
            reading = self.readings[place]
            # While the start is looked up, the error stays in the buffer: else aiokafka would fetch again and again.
            if place not in places or reading.is_lost:
                continue
            if error := self.partitions.error(place):
                if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
                    self._lose([place])
                elif isinstance(error, RecordTooLargeError):
                    self._stop(place, "it is larger than a fetch, or says so", None)
                elif not taken:
                    self._drop_alike(places, error)
                    raise error
            elif fetched := self._take_of(place, reading, most):
                taken.append(fetched)
                most -= len(fetched.records)
                if most <= 0:
                    break
        return taken

    def go_on_at(self, place: TopicPartition, start: int) -> None:
        """Read a partition from the start of its log on."""
        if not self.partitions.holds:
            return
        reading = self.readings[place]
        before, reading.position, reading.is_lost = reading.position, start, False
        is_replaced, reading.is_replaced = reading.is_replaced, False
        self.partitions.seek(place, start)
        if before is None and not is_replaced:
            return
        move = {"topic": place[0], "partition": place[1], "from_offset": before, "to_offset": start}
        if before is not None and start > before and not is_replaced:
            self.removed_unread[place] += start - before
            log.warning("unread_records_removed", **move, count=start - before)
            self.due.append(self._fetched(place, reading, before))
            return
        # Made again; or it ended before the position: cut off or restored. It is not known which of its records are
        # new, so all are read.
        reading.epoch = next(self.numbers)
        reading.begins = True
        reading.committed, reading.note = UNKNOWN_OFFSET, ""
        if before != start:
            log.warning("log_replaced", **move)
        self.due.append(self._fetched(place, reading, start))

    def compare(self, topic_ids: Mapping[str, str]) -> None:
        """Look up the start of topics that have a new id: old positions mean nothing in a new log."""
        for topic, topic_id in topic_ids.items():
            before = self.topic_ids.setdefault(topic, topic_id)
            if before == topic_id or not self.partitions.holds:
                continue
            self.topic_ids[topic] = topic_id
            replaced = [one for one in self.readings if one[0] == topic]
            for one in replaced:
                self.readings[one].is_replaced = True
                # So that nothing of the log before is committed from now on.
                self.readings[one].epoch = next(self.numbers)
            self._lose(replaced)

    def _lose(self, places: list[TopicPartition]) -> None:
        for one in places:
            self.readings[one].is_lost = True
        self.run_beside(self._find_starts(places))

    async def _find_starts(self, places: list[TopicPartition]) -> None:
        """Set the positions of partitions to the start of their logs, as soon as the brokers answer."""
        groups = [places]
        try:
            while groups and self.partitions.holds:
                asked = [self.partitions.starts(group, timeout_s=_FIND_START_S) for group in groups]
                answers = await asyncio.gather(*asked, return_exceptions=True)
                left = []
                for group, starts in zip(groups, answers, strict=True):
                    if not isinstance(starts, BaseException):
                        for place in group:
                            self.go_on_at(place, starts[place])
                    elif isinstance(starts, KafkaError):
                        told = [tuple(one) for one in group]
                        log.warning("log_start_unknown", partitions=told, error=str(starts))
                        left += group
                    else:
                        raise starts
                groups = [[one] for one in left]  # a partition whose broker is away delays no other
                if groups:
                    await asyncio.sleep(_FIND_START_AGAIN_S)
        except Exception as error:  # noqa: BLE001 - the next take raises it
            self.fault = error
        self.partitions.wake()

    def _take_of(self, place: TopicPartition, reading: Reading, most: int) -> Fetched | None:
        start = reading.position
        assert start is not None
        if not self.partitions.buffered_from(place) == self.partitions.position(place) == start:
            topic, number = place
            raise PositionLost(
                f"topic {topic} partition {number}: offset {start} was due and aiokafka goes on at offset "
                f"{self.partitions.buffered_from(place)}; the worker stops, and what is behind the committed offset is "
                "delivered again"
            )
        records, end, damage, batches = self.partitions.take(place, most)
        reading.position = end
        if damage is not None:
            self._count_damage(place, reading, damage, batches.behind_batch)
        return None if end == start and not records else self._fetched(place, reading, start, records)

    def _fetched(self, place: TopicPartition, reading: Reading, start: int, records: Sequence[Record] = ()) -> Fetched:
        """Return the next fetch of a partition: everything from `start` up to its position."""
        assert reading.position is not None
        begins, reading.begins = reading.begins, False
        end, epoch = reading.position, reading.epoch
        return Fetched(*place, self.generation, epoch, start, end, records, begins, reading.committed, reading.note)

    def _drop_alike(self, places: Collection[TopicPartition], error: Exception) -> None:
        """Fetch all of `places` that got this answer again: raised one by one, each would cost a pause."""
        for one in self.partitions.buffered():
            if one in places and type(self.partitions.error(one)) is type(error):
                self.partitions.drop(one)

    def _count_damage(self, place: TopicPartition, reading: Reading, damage: Exception, behind: int | None) -> None:
        offset, reads = reading.damaged_at
        reads = reads + 1 if offset == reading.position else 1
        reading.damaged_at = (reading.position or 0, reads)
        if reads == _READS_OF_DAMAGE:
            self._stop(place, f"{type(damage).__name__}: {damage}", behind)

    def _stop(self, place: TopicPartition, reason: str, behind: int | None) -> None:
        """Stop reading a partition whose next batch cannot be read; all others go on.

        `behind` is the offset after that batch, None where it is not known.
        """
        self.partitions.pause(place)
        topic, number = place
        offset = self.readings[place].position
        to_offset = "the offset behind it" if behind is None else str(behind)
        self.stopped[topic, number] = why = (
            f"the batch at offset {offset} of topic {topic} partition {number} cannot be read ({reason}); what is "
            "before it is answered, what is behind it waits, other partitions go on. To go on behind it stop the "
            f"workers of group {self.group_id}, run kafka-consumer-groups.sh --bootstrap-server <broker> "
            f"--group {self.group_id} --topic {topic}:{number} --reset-offsets --to-offset {to_offset} --execute, "
            "and start them again"
        )
        log.error("partition_stopped", topic=topic, partition=number, offset=offset, error=why)
