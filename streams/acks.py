"""Keeps account of messages in flight: which offset may be committed, however out of order work finishes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

Place = tuple[str, int]
"""A topic and one of its partitions; Faust's and aiokafka's own types for it are equal to it."""


class Record(Protocol):
    """The part of aiokafka's ConsumerRecord that is read here."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...


class _Partition:
    """What is in flight of one partition in one generation, in the order of offsets."""

    __slots__ = ("in_flight", "position")

    def __init__(self) -> None:
        self.in_flight: deque[Received] = deque()
        self.position: int | None = None


class Received(msgspec.Struct, eq=False):
    """One message as it was handed to this worker, in one generation of its consumer group."""

    record: Record
    generation: int
    is_done: bool = False
    since: float = 0.0
    partition: _Partition | None = None
    """Where it is in flight; set by the acker."""


class OrderedAcker:
    """Knows of each partition the contiguous finished prefix, so that a commit never passes unfinished work.

    Owned by the event loop thread. Every tracked message must be marked done exactly once, after its result
    or dead letter is on the broker. Messages of an earlier generation are counted until they are done, but
    never move the position of a partition that was handed out again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_flight = 0
        """How many tracked messages are not acked yet, finished ones behind an unfinished one included."""
        self._clock = clock
        self._partitions: dict[tuple[str, int, int], _Partition] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def track(self, message: Received) -> None:
        """Remember that `message` is in flight; call in the order of offsets, as the broker delivers them."""
        key = (message.record.topic, message.record.partition, message.generation)
        partition = self._partitions.get(key)
        if partition is None:
            partition = self._partitions[key] = _Partition()
        message.partition = partition
        message.since = self._clock()
        partition.in_flight.append(message)
        self.in_flight += 1

    def done(self, message: Received) -> None:
        """Mark `message` finished: everything contiguous up to it may be committed.

        Raises:
            ValueError: the message was never tracked: a fault of the caller.
        """
        partition = message.partition
        if partition is None:
            raise ValueError(f"offset {message.record.offset} of {message.record.topic} is not in flight")
        message.is_done = True
        in_flight = partition.in_flight
        acked = 0
        while in_flight and in_flight[0].is_done:
            partition.position = in_flight.popleft().record.offset + 1
            acked += 1
        if acked:
            self.in_flight -= acked
            self._wake()

    def positions(self, generation: int) -> dict[Place, int]:
        """Return for each partition of this generation the offset that may be committed: all before are done."""
        return {
            (topic, number): partition.position
            for (topic, number, its_generation), partition in self._partitions.items()
            if its_generation == generation and partition.position is not None
        }

    def forget_all_but(self, generation: int) -> None:
        """Drop the positions of other generations: their partitions are counted anew, or elsewhere."""
        self._partitions = {
            key: partition
            for key, partition in self._partitions.items()
            if key[2] == generation or partition.in_flight
        }

    async def progress(self) -> None:
        """Return after the next ack."""
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

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)
