"""Keeps account of messages in flight: which offset may be committed, however out of order work finishes."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

Place = tuple[str, int]
"""A topic and one of its partitions; Faust's and aiokafka's own types for it are equal to it."""


class _Partition:
    """What one partition has in flight and acked in one generation, in the order of offsets."""

    __slots__ = ("acked", "in_flight", "is_forgotten", "position", "unfinished")

    def __init__(self) -> None:
        self.in_flight: deque[Received] = deque()
        self.acked: deque[int] = deque()
        """Positions that acks led to and no commit has reached yet."""
        self.position: int | None = None
        self.unfinished = 0
        self.is_forgotten = False
        """Whether nothing of it will ever be committed here, for it was handed out again."""


class Received(msgspec.Struct, eq=False):
    """One message as the broker delivered it to this worker, and how far it has come."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """In milliseconds since the epoch; -1 where nobody knows."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    generation: int = -1
    """That of the consumer group in which it was handed to this worker; set by the consumer."""
    is_done: bool = False
    since: float = 0.0
    account: _Partition | None = None
    """Where it is in flight; set by the acker."""


class OrderedAcker:
    """Knows of each partition the contiguous finished prefix, so that a commit never passes unfinished work.

    Owned by the event loop thread. Every tracked message must be marked done exactly once, after its result
    or dead letter is on the broker. Messages of an earlier generation are counted until they are done, but
    never move the position of a partition that was handed out again.

    At most `window` messages of a partition are tracked and not committed: so many a crash repeats, and so far
    work runs ahead of a slow message. Where `window` messages are unfinished over all partitions, a partition may
    have more only up to its share of the window: so there are about twice as many at most, and no partition fills
    the room of another.
    """

    def __init__(self, *, window: int = 512, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_flight = 0
        """How many tracked messages are not acked yet, finished ones behind an unfinished one included."""
        self.unfinished = 0
        """How many tracked messages are not done yet."""
        self.commit_is_due = asyncio.Event()
        """Set while half a window of messages or more are acked and not committed, over all partitions."""
        self._acked = 0
        """How many messages are acked and not committed yet."""
        self._window = window
        self._commit_after = max(1, window // 2)
        self._clock = clock
        self._partitions: dict[tuple[str, int, int], _Partition] = {}
        self._held_back: set[Place] = set()
        self._waiting: list[asyncio.Future[None]] = []

    def track(self, messages: Sequence[Received], start: int = 0) -> int:
        """Remember that messages from `start` on are in flight, as many as there is room for; return how many.

        They are of one partition and generation, and come in the order of offsets, as the broker delivers them.
        """
        first = messages[start]
        key = (first.topic, first.partition, first.generation)
        partition = self._partitions.get(key)
        if partition is None:
            partition = self._partitions[key] = _Partition()
        room = self._window - len(partition.in_flight) - len(partition.acked)
        share = math.ceil(self._window / len(self._partitions))
        room = min(room, max(self._window - self.unfinished, share - partition.unfinished))
        tracked = messages[start : start + max(0, room)]
        now = self._clock()
        for message in tracked:
            message.account = partition
            message.since = now
        count = len(tracked)
        partition.in_flight.extend(tracked)
        partition.unfinished += count
        self.unfinished += count
        self.in_flight += count
        return count

    def done(self, message: Received) -> None:
        """Mark `message` finished: everything contiguous up to it may be committed.

        Raises:
            ValueError: the message was never tracked: a fault of the caller.
        """
        partition = message.account
        if partition is None:
            raise ValueError(f"offset {message.offset} of {message.topic} is not in flight")
        message.is_done = True
        partition.unfinished -= 1
        self.unfinished -= 1
        in_flight = partition.in_flight
        acked = 0
        while in_flight and in_flight[0].is_done:
            partition.position = position = in_flight.popleft().offset + 1
            partition.acked.append(position)
            acked += 1
        if acked:
            self.in_flight -= acked
            self._acked += acked
            if partition.is_forgotten:
                self._settle(partition)
            elif self._acked >= self._commit_after:
                self.commit_is_due.set()
        elif self.unfinished + 1 < self._window:
            return  # nobody can go on for that
        if self._waiting:
            self._wake()

    def committed(self, generation: int, positions: Iterable[tuple[Place, int]]) -> None:
        """Note that the broker has these positions, which were among those of this generation."""
        for (topic, number), position in positions:
            partition = self._partitions.get((topic, number, generation))
            if partition is not None:
                self._settle(partition, position)
        self._wake()

    @property
    def uncommitted(self) -> int:
        """How many tracked messages are not committed yet: those in flight and those acked since.

        A crash now would have so many answered again, and no more.
        """
        return self.in_flight + self._acked

    def positions(self, generation: int) -> dict[Place, int]:
        """Return for each partition of this generation the offset that may be committed: all before are done."""
        return {
            (topic, number): partition.position
            for (topic, number, its_generation), partition in self._partitions.items()
            if its_generation == generation and partition.position is not None
        }

    def forget_all_but(self, generation: int) -> None:
        """Drop the positions of other generations: their partitions are counted anew, or elsewhere."""
        for key, partition in list(self._partitions.items()):
            if key[2] == generation:
                continue
            partition.is_forgotten = True
            self._settle(partition)
            if not partition.in_flight:
                del self._partitions[key]
        self._wake()

    def hold_back(self, place: Place) -> None:
        """Say that messages of `place` wait for room."""
        self._held_back.add(place)

    def release(self, place: Place) -> None:
        """Say that no messages of `place` wait for room any more."""
        self._held_back.discard(place)
        self._wake()

    @property
    def held_back(self) -> AbstractSet[Place]:
        """The partitions of which messages wait for room: no more of them are to be fetched."""
        return self._held_back

    async def progress(self) -> None:
        """Return after the next ack, commit or release; where all room is taken, after the next message is done."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    async def drained(self) -> None:
        """Return once nothing is in flight."""
        while self.in_flight:
            await self.progress()

    def oldest_age_s(self) -> float:
        """Return the seconds since the oldest unacked message arrived; 0 when nothing is in flight."""
        firsts = [one.in_flight[0].since for one in self._partitions.values() if one.in_flight]
        return self._clock() - min(firsts) if firsts else 0.0

    def _settle(self, partition: _Partition, position: float = math.inf) -> None:
        """Stop counting what is acked up to `position`: it is committed, or never will be."""
        acked = partition.acked
        before = len(acked)
        while acked and acked[0] <= position:
            acked.popleft()
        self._acked -= before - len(acked)
        if self._acked < self._commit_after:
            self.commit_is_due.clear()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)
