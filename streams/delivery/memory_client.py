"""A record source and a record sink on the broker in memory."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import errors
from aiokafka.errors import KafkaError

from streams.delivery.memory_broker import MEMBERSHIP_CODES, UNKNOWN_MEMBER, MemoryBroker, OnRequest
from streams.delivery.port import Fetched, Positions, ProducerRecord, Record, RecordListener, TopicPartition
from streams.faults import supervised
from streams.kafka.connection import is_passing

T = TypeVar("T")

_RETRY_S = 0.1
_BATCH_BYTES = 256 * 1024
_NAMES = itertools.count(1)
_NONE = 0
"""The generation of a member without an assignment; groups count from 1."""


async def _at_once(step: str) -> None:
    """Delay no request and no answer."""


class _Client:
    """Sends requests that may be late or lost, or carried out while their answer is lost."""

    def __init__(self, broker: MemoryBroker, on_request: OnRequest = _at_once) -> None:
        self._broker = broker
        self._on_request = on_request

    async def _ask(self, step: str, carry_out: Callable[..., T], *asked: Any) -> T:
        await self._on_request(step)
        answer = carry_out(*asked)
        await self._on_request(f"{step} answered")
        return answer

    async def _ask_until_answered(self, step: str, carry_out: Callable[..., T], *asked: Any) -> T:
        while True:
            try:
                return await self._ask(step, carry_out, *asked)
            except KafkaError as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(_RETRY_S)


@dataclass(slots=True)
class _Reading:
    """How far one partition is read in one generation."""

    epoch: int
    committed: int | None
    position: int
    note: str
    begins: bool = True


class MemorySource(_Client):
    """A member of a consumer group. It joins at `start` and at each rebalance, and leaves at `stop`."""

    _listener: RecordListener

    def __init__(
        self, broker: MemoryBroker, group: str, topics: Collection[str], on_request: OnRequest = _at_once
    ) -> None:
        super().__init__(broker, on_request)
        self._group_id, self._group = group, broker.group(group)
        self._topics = topics
        self._numbers = itertools.count(1)
        self._generation: int | None = None
        self._member_generation = _NONE
        self._name = ""
        self._readings: dict[TopicPartition, _Reading] = {}
        self._is_open = asyncio.Event()
        self._rejoin = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def attach(self, listener: RecordListener) -> None:
        self._listener = listener

    @property
    def generation(self) -> int | None:
        return self._generation

    async def start(self) -> None:
        """Begin to join the group."""
        for work in (self._keep_assigned(), self._send_heartbeats()):
            self._running.append(supervised(asyncio.create_task(work, name="membership in memory")))

    async def stop(self) -> None:
        """Wait until everything in flight is answered and committed, then leave the group."""
        self._close()
        assigning, *_ = self._running
        assigning.cancel()
        try:
            await self._listener.drain()
        finally:
            for running in self._running:
                running.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            with suppress(KafkaError):  # the group would notice by itself later
                await self._ask("leave", self._group.leave, self._name)

    async def opened(self) -> int:
        while self._generation is None:
            await self._is_open.wait()
        return self._generation

    def partitions(self, topic: str) -> AbstractSet[TopicPartition]:
        return {place for place in self._readings if place[0] == topic}

    async def fetch(
        self, generation: int, topic: str, partitions: Collection[TopicPartition], most: int, timeout_s: float
    ) -> None:
        readings = self._readings
        until = asyncio.get_running_loop().time() + timeout_s
        while generation == self._generation:
            arrival = self._broker.arrival(topic)
            try:
                brought = await self._ask("fetch", self._read, readings, partitions, most)
            except KafkaError as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            if fetched := self._deliver(generation, readings, brought):
                self._listener.take(topic, fetched)
                return
            left_s = until - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await asyncio.wait([arrival], timeout=left_s)

    def _read(
        self, readings: Mapping[TopicPartition, _Reading], partitions: Collection[TopicPartition], most: int
    ) -> list[tuple[TopicPartition, Sequence[Record], int]]:
        """Return the records of these partitions behind their positions, and the offsets where they end."""
        brought = []
        for place in sorted(partitions):
            records, end = self._broker.logs[place].read(readings[place].position, most)
            brought.append((place, records, end))
            most -= len(records)
            if most <= 0:
                break
        return brought

    def _deliver(
        self,
        generation: int,
        readings: Mapping[TopicPartition, _Reading],
        brought: Sequence[tuple[TopicPartition, Sequence[Record], int]],
    ) -> list[Fetched]:
        """Move the positions and return the records; none where the generation that asked has ended."""
        fetched = []
        for place, records, end in brought if generation == self._generation else ():
            reading = readings[place]
            if end == reading.position and not reading.begins:
                continue
            fetched.append(
                Fetched(
                    *place,
                    generation,
                    reading.epoch,
                    reading.position,
                    end,
                    [copy.copy(record) for record in records],  # to be marked as done by this member alone
                    reading.begins,
                    reading.committed,
                    reading.note,
                )
            )
            reading.position, reading.begins = end, False
        return fetched

    async def commit(self, positions: Positions) -> Mapping[TopicPartition, int]:
        readings, name, generation = self._readings, self._name, self._member_generation
        asked = {
            place: position
            for place, position in positions.items()
            if place in readings and readings[place].epoch == position.epoch
        }
        if not asked:
            return {}
        try:
            code = await self._ask("commit", self._broker.commit, self._group_id, name, generation, asked)
        except KafkaError:
            code = errors.RequestTimedOutError.errno
        self._hear(code, name, generation)
        return dict.fromkeys(asked, code)

    async def _keep_assigned(self) -> None:
        """Join the group, open a generation, close it at a rebalance, and repeat."""
        while True:
            # Until partitions are assigned again, nothing of the old generation may be committed in the new one.
            self._readings, self._member_generation = {}, _NONE
            self._name = name = self._name or f"member-{next(_NAMES)}"
            self._rejoin.clear()
            joined = await self._ask_until_answered("join", self._group.join, name, self._topics)
            self._member_generation, places = await joined
            committed, notes = await self._ask_until_answered("committed", self._group.committed_by_now)
            self._readings = {
                place: _Reading(
                    next(self._numbers), committed.get(place), committed.get(place, 0), notes.get(place, "")
                )
                for place in sorted(places)
            }
            self._listener.begin(places)
            self._generation = next(self._numbers)
            self._is_open.set()
            await self._rejoin.wait()
            self._close()
            await self._listener.drain(self._group.rebalance_s / 2)

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._group.session_s / 3)
            name, generation = self._name, self._member_generation
            if generation == _NONE:
                continue
            with suppress(KafkaError):
                code = await self._ask("heartbeat", self._group.heartbeat, name, generation)
                self._hear(code, name, generation)

    def _hear(self, code: int, name: str, generation: int) -> None:
        """Join again when the group asks for that in the current generation."""
        if code not in MEMBERSHIP_CODES or (name, generation) != (self._name, self._member_generation):
            return
        if code == UNKNOWN_MEMBER:
            self._name = ""
        self._rejoin.set()

    def _close(self) -> None:
        self._generation = None
        self._is_open.clear()


class MemorySink(_Client):
    """Appends records to a broker in memory."""

    async def partitions(self, topic: str) -> list[int]:
        places = await self._ask_until_answered("metadata", self._broker.partitions, topic)
        return [number for _, number in places]

    async def send(self, topic: str, partition: int, records: Sequence[ProducerRecord]) -> tuple[int, Exception | None]:
        count = size = 0
        for record in records:
            size += len(record.key or b"") + len(record.value or b"")
            if count and size > _BATCH_BYTES:
                break
            count += 1
        try:
            await self._ask("send", self._broker.append, topic, partition, records[:count])
        except KafkaError as error:
            return count, error
        return count, None
