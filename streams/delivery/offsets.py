"""Tracks records in flight and the offset that may be committed, in whatever order they finish."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from streams.delivery.port import (
    UNKNOWN_OFFSET,
    Fetched,
    Position,
    PositionLost,
    Positions,
    Record,
    TopicPartition,
)


@dataclass(slots=True, eq=False)
class _Partition:
    """Records in flight and acked of one partition, for one log in one generation, in the order of offsets."""

    epoch: int
    position: int
    """The offset before which everything is done."""
    committed: int
    """The offset that the group has; the position is committed where it differs."""
    tracked_to: int
    """Where the next fetch has to begin."""
    answered: dict[int, int]
    """Digests of records that are done and not committed, by offset; all epochs of the partition share it."""
    in_flight: deque[Record] = field(default_factory=deque)
    acked: deque[int] = field(default_factory=deque)
    """Positions reached by acks and not committed yet."""
    gaps: deque[tuple[int, int]] = field(default_factory=deque)
    """Offsets beyond the position that the log does not have, as (start, end)."""
    unfinished: int = 0
    is_forgotten: bool = False
    """Whether nothing of it will be committed here: it was reassigned, or its log is gone."""

    def cross_gaps(self) -> None:
        """Move the position over offsets that the log does not have."""
        while self.gaps and self.gaps[0][0] <= self.position:
            self.position = max(self.position, self.gaps.popleft()[1])


class OffsetTracker:
    """Knows how far each partition is done without a hole, so that no commit passes unfinished work.

    Owned by the event loop thread. Every tracked record must be marked done exactly once, after its result or dead
    letter is on the broker. Records of an earlier epoch are counted until they are done, but never move the position
    of a partition that was reassigned or whose log was replaced.

    At most `window` records of a partition are tracked and not committed. That is how far work runs ahead of a slow
    record, and how many a crash repeats. Once `window` records are unfinished over all partitions, each partition is
    limited to its share of the window. So about twice as many are unfinished at most, and no partition takes the room
    of another.
    """

    def __init__(self, *, window: int = 512, clock: Callable[[], float] = time.monotonic) -> None:
        self.unfinished = 0
        """How many tracked records are not done yet."""
        self.commit_is_due = asyncio.Event()
        """Set while acked and uncommitted records of all partitions fill half a window or more."""
        self.held_back: set[TopicPartition] = set()
        """The partitions whose records wait for room; they must not be fetched. `release` takes one out."""
        self._acked = 0
        """How many records are acked and not committed yet."""
        self._window = window
        self._commit_after = max(1, window // 2)
        self._clock = clock
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._answered: dict[TopicPartition, dict[int, int]] = {}
        """Digests of records that are done and not committed, of each partition that was ever read here."""
        self._forgotten: list[_Partition] = []
        """Forgotten partitions with unfinished records."""
        self._progress = asyncio.Event()
        """Set for a moment whenever one of those who wait may go on."""

    def enter(self, fetched: Fetched) -> None:
        """Check, before a fetch is tracked, that it follows the previous one of its partition or starts an epoch.

        Raises:
            PositionLost: permanent; records between the two fetches were never tracked.
        """
        before = self._partitions.get(fetched.place)
        if before is None or before.epoch != fetched.epoch or before.tracked_to != fetched.start:
            self._begin(before, fetched)

    def track(self, fetched: Fetched, start: int, most: int) -> int:
        """Track up to `most` records from `start` on, as far as there is room; return how many.

        Fetches of a partition come in order; each is tracked to its end before the next begins.
        """
        partition = self._partitions[fetched.place]
        records = fetched.records
        room = self._window - len(partition.in_flight) - len(partition.acked)
        share = math.ceil(self._window / len(self._partitions))
        room = min(room, max(self._window - self.unfinished, share - partition.unfinished), most)
        tracked = records[start : start + max(0, room)]
        now = self._clock()
        for message in tracked:
            message.account = partition
            message.since = now
        count = len(tracked)
        partition.in_flight.extend(tracked)
        partition.unfinished += count
        self.unfinished += count
        if start + count == len(records):
            partition.tracked_to = end = fetched.end
            behind = records[-1].offset + 1 if records else fetched.start
            if behind < end:
                partition.gaps.append((behind, end))
                partition.cross_gaps()
        return count

    def is_answered(self, message: Record) -> bool:
        """Whether a tracked record was done here in an earlier epoch, and the group removed this worker before the
        commit. It has its outcome, so it must not run again."""
        answered = message.account.answered
        return message.offset in answered and answered[message.offset] == message.digest

    def done(self, message: Record) -> None:
        """Mark `message` finished. Everything before it that is finished too may be committed.

        Raises:
            ValueError: the record was never tracked: a bug of the caller.
        """
        partition = message.account
        if partition is None:
            raise ValueError(f"offset {message.offset} of {message.topic} is not in flight")
        message.is_done = True
        partition.answered[message.offset] = message.digest
        if partition.is_forgotten:
            self.drop(message)
            return
        partition.unfinished -= 1
        self.unfinished -= 1
        in_flight = partition.in_flight
        acked = 0
        while in_flight and in_flight[0].is_done:
            partition.position = position = in_flight.popleft().offset + 1
            partition.acked.append(position)
            acked += 1
        if acked:
            if partition.gaps:
                partition.cross_gaps()
            self._acked += acked
            if self._acked >= self._commit_after:
                self.commit_is_due.set()
        elif 0 < self.unfinished < self._window - 1:
            return  # nobody can go on for that
        self._wake()

    def drop(self, message: Record) -> None:
        """Stop counting a record of a forgotten partition: its request has ended, or is counted elsewhere."""
        partition = message.account
        partition.in_flight.remove(message)
        partition.unfinished -= 1
        self.unfinished -= 1
        self._wake()

    def give_back(self, give_up: Callable[[Record], bool]) -> None:
        """Stop counting the last records of each partition: their next owner gets them.

        Goes back from the last record to the first that is done, or for which `give_up` returns false. The position
        stays before them. For partitions that are about to be reassigned.
        """
        for partition in (*self._partitions.values(), *self._forgotten):
            in_flight = partition.in_flight
            while in_flight and not in_flight[-1].is_done and give_up(in_flight[-1]):
                in_flight.pop()
                partition.unfinished -= 1
                self.unfinished -= 1
        self._wake()

    def committed(self, positions: Positions) -> None:
        """Note that the group has these positions."""
        for partition, offset in self._of_epochs(positions):
            partition.committed = offset
            self._settle(partition, offset)
        self._wake()

    def discount(self, positions: Positions) -> None:
        """Let what leads to these positions take no room any more: the broker has no place for them at present."""
        for partition, offset in self._of_epochs(positions):
            self._settle(partition, offset)
        self._wake()

    def give_up(self, positions: Positions) -> None:
        """Note that nothing of these epochs will ever be committed: the log was replaced, or handed out again."""
        for partition, _ in self._of_epochs(positions):
            partition.is_forgotten = True
            self._settle(partition)
        self._wake()

    @property
    def in_flight(self) -> int:
        """How many tracked messages are not acked yet, finished ones behind an unfinished one included."""
        return sum(len(one.in_flight) for one in (*self._partitions.values(), *self._forgotten))

    @property
    def uncommitted(self) -> int:
        """How many tracked messages are not committed yet: those in flight and those acked since.

        A crash now would have so many answered again, and no more.
        """
        return self.in_flight + self._acked

    def positions(self) -> dict[TopicPartition, Position]:
        """Return the position of each partition where the group has another one.

        It is lower than the group's where the log was replaced.
        """
        return {
            place: Position(partition.position, partition.epoch)
            for place, partition in self._partitions.items()
            if partition.position != partition.committed and not partition.is_forgotten
        }

    def position(self, place: TopicPartition) -> Position | None:
        """Return the position of a partition, None where nothing of it may be committed."""
        partition = self._partitions.get(place)
        if partition is None or partition.is_forgotten:
            return None
        return Position(partition.position, partition.epoch)

    def unfinished_of(self, place: TopicPartition) -> int:
        """Return how many records of a partition are tracked in this epoch and not done yet."""
        partition = self._partitions.get(place)
        return 0 if partition is None else partition.unfinished

    def forget_all(self) -> None:
        """Drop all positions: the partitions were reassigned, to this worker or another."""
        for place in list(self._partitions):
            self._forget(place)
        self._wake()

    def release(self, place: TopicPartition) -> None:
        """Note that no records of `place` wait for room any more."""
        self.held_back.discard(place)
        self._wake()

    async def progress(self) -> None:
        """Wait for the next ack, commit or release; where all room is taken, for the next record that is done."""
        await self._progress.wait()

    async def drained(self) -> None:
        """Return once nothing is unfinished."""
        while self.unfinished:
            await self.progress()

    def oldest_age_s(self) -> float:
        """Return the seconds since the oldest unacked message arrived; 0 when nothing is in flight."""
        counted = (*self._partitions.values(), *self._forgotten)
        firsts = [one.in_flight[0].since for one in counted if one.in_flight]
        return self._clock() - min(firsts) if firsts else 0.0

    def _begin(self, before: _Partition | None, fetched: Fetched) -> None:
        if not fetched.begins or (before is not None and before.epoch >= fetched.epoch):
            raise _lost(fetched, "nothing" if before is None else f"offset {before.tracked_to}")
        if fetched.committed not in (None, UNKNOWN_OFFSET, fetched.start):
            raise _lost(fetched, f"offset {fetched.committed}")
        committed = fetched.start if fetched.committed is None else fetched.committed
        if before is not None:
            self._forget(fetched.place)
        answered = self._answered.setdefault(fetched.place, {})
        for offset in list(answered):
            if offset < fetched.start or committed == UNKNOWN_OFFSET:
                del answered[offset]
        self._partitions[fetched.place] = _Partition(fetched.epoch, fetched.start, committed, fetched.start, answered)

    def _forget(self, place: TopicPartition) -> None:
        partition = self._partitions.pop(place)
        partition.is_forgotten = True
        partition.in_flight = deque(one for one in partition.in_flight if not one.is_done)
        self._settle(partition)
        self._forgotten = [one for one in (*self._forgotten, partition) if one.unfinished]

    def _of_epochs(self, positions: Positions) -> Iterator[tuple[_Partition, int]]:
        for place, (offset, epoch, _) in positions.items():
            partition = self._partitions.get(place)
            if partition is not None and partition.epoch == epoch:
                yield partition, offset

    def _settle(self, partition: _Partition, position: float = math.inf) -> None:
        """Stop counting acked records up to `position`: they are committed, or never will be."""
        acked = partition.acked
        before = len(acked)
        while acked and acked[0] <= position:
            offset = acked.popleft() - 1
            if not partition.is_forgotten:
                partition.answered.pop(offset, None)
        self._acked -= before - len(acked)
        if self._acked < self._commit_after:
            self.commit_is_due.clear()

    def _wake(self) -> None:
        self._progress.set()
        self._progress.clear()


def _lost(fetched: Fetched, due: str) -> PositionLost:
    return PositionLost(
        f"records of topic {fetched.topic} partition {fetched.partition} are missing: {due} was due and offset "
        f"{fetched.start} came; the worker stops, and those behind the committed offset are delivered again"
    )
