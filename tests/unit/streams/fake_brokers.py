"""Logs, a consumer group and committed offsets in memory, behind the client of real aiokafka consumers.

Between any two steps of a request lies a pause that the test sets: on its way, and on the way of its answer.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiokafka
from aiokafka.errors import KafkaConnectionError

from streams.delivery.port import TopicPartition
from tests.unit.streams.kafka.test_header_names import PLAIN, batch, sealed

OUT_OF_RANGE, ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING = 1, 22, 25, 27
SESSION_S = 3.0
_BATCHES_A_FETCH = 3
_LAST_OFFSET_AT = struct.calcsize(">qiibIh")

Pause = Callable[[str], Awaitable[None]]


class Log:
    """One partition's records."""

    def __init__(self) -> None:
        self.start = self.end = 0
        self._batches: list[tuple[int, bytes]] = []

    def append(self, count: int, *, damage: Callable[[bytes], bytes] = lambda data: data, skip: int = 0) -> None:
        """Append a batch of so many records, of which compaction has left out the last `skip` since."""
        made = bytearray(batch(self.end, [PLAIN] * count))
        self.end += count + skip
        struct.pack_into(">i", made, _LAST_OFFSET_AT, count + skip - 1)
        self._batches.append((self.end, damage(sealed(made))))

    def cut_before(self, offset: int) -> None:
        """Remove what retention removes."""
        self.start = offset
        self._batches = [one for one in self._batches if one[0] > offset]

    def read(self, offset: int) -> bytes:
        return b"".join([data for end, data in self._batches if end > offset][:_BATCHES_A_FETCH])


class Group:
    """The coordinator's side of one consumer group."""

    def __init__(self) -> None:
        self.generation = 0
        self.members: dict[str, bytes] = {}
        self.joining: dict[str, asyncio.Future[Any]] = {}
        self.is_joining = False
        self.assigned: asyncio.Future[dict[str, bytes]] | None = None
        self.seen: dict[str, float] = {}
        self.syncing: Counter[str] = Counter()
        self._count = 0

    def expire(self) -> None:
        """Put out whoever has not been heard of for a session, but for those that wait for an answer."""
        now = asyncio.get_running_loop().time()
        for identity in list(self.members):
            if identity in self.joining or self.syncing[identity]:
                continue
            if now - self.seen[identity] > SESSION_S:
                self.leave(identity)

    async def join(self, request: Any) -> Any:
        identity = request._member_id
        if identity and identity not in self.members:
            return SimpleNamespace(error_code=UNKNOWN_MEMBER)
        if not identity:
            self._count += 1
            identity = f"m{self._count}"
        [(_, metadata)] = request._group_protocols
        self.members[identity] = metadata
        self.begin()
        self.joining[identity] = joined = asyncio.get_running_loop().create_future()
        self.complete()
        answer = await joined
        self.seen[identity] = asyncio.get_running_loop().time()
        return answer

    def begin(self) -> None:
        self.is_joining = True
        if self.assigned is not None and not self.assigned.done():
            self.assigned.cancel()
        self.assigned = None

    def complete(self) -> None:
        if not self.members or set(self.joining) < set(self.members):
            return
        self.generation += 1
        self.is_joining = False
        self.assigned = asyncio.get_running_loop().create_future()
        leader = min(self.members)
        now = asyncio.get_running_loop().time()
        for identity, joined in self.joining.items():
            self.seen[identity] = now
            if not joined.done():
                joined.set_result(
                    SimpleNamespace(
                        API_VERSION=2,
                        error_code=0,
                        generation_id=self.generation,
                        group_protocol="roundrobin",
                        leader_id=leader,
                        member_id=identity,
                        members=list(self.members.items()) if identity == leader else [],
                    )
                )
        self.joining = {}

    async def sync(self, request: Any) -> Any:
        if error := self.refusal(request._member_id, request._generation_id):
            return SimpleNamespace(error_code=error)
        assigned = self.assigned
        if self.is_joining or assigned is None:
            return SimpleNamespace(error_code=REBALANCING)
        if request._group_assignment and not assigned.done():
            assigned.set_result(dict(request._group_assignment))
        identity = request._member_id
        self.syncing[identity] += 1
        try:
            await asyncio.wait([assigned])
        finally:
            self.syncing[identity] -= 1
        self.seen[identity] = asyncio.get_running_loop().time()
        if assigned.cancelled():
            return SimpleNamespace(error_code=REBALANCING)
        return SimpleNamespace(error_code=0, member_assignment=assigned.result()[request._member_id])

    def refusal(self, identity: str, generation: int) -> int:
        if identity not in self.members:
            return UNKNOWN_MEMBER
        self.seen[identity] = asyncio.get_running_loop().time()
        return ILLEGAL_GENERATION if generation != self.generation else 0

    def leave(self, identity: str) -> None:
        if self.members.pop(identity, None) is not None:
            self.joining.pop(identity, None)
            self.begin()
            self.complete()


class Brokers:
    """All that is not a member: `on_commit` hears of each offset before it is taken."""

    def __init__(self, partitions: dict[str, int], pause: Pause) -> None:
        self.partitions = partitions
        self.pause = pause
        self.logs: dict[TopicPartition, Log] = {
            (topic, number): Log() for topic, count in partitions.items() for number in range(count)
        }
        self.committed: dict[TopicPartition, int] = {}
        self.notes: dict[TopicPartition, str] = {}
        self.topic_ids: dict[str, int] = {}
        self.is_silent_about_ids = False
        self.group = Group()
        self.on_commit: Callable[[TopicPartition, int], None] = lambda place, offset: None
        self.refuse: dict[str, list[int]] = {}
        self.refuse_fetches = 0
        """Error codes that the next requests of a kind are answered with, as far as a test asks for some."""

    async def fetch(self, request: Any) -> Any:
        asked = [(topic, number, offset) for topic, parts in request.topics for number, offset, _ in parts]
        if not any(self.logs[topic, number].end != offset for topic, number, offset in asked):
            await asyncio.sleep(0.05)
        topics = []
        for topic, number, offset in asked:
            log = self.logs[topic, number]
            error = self.refuse_fetches or (0 if log.start <= offset <= log.end else OUT_OF_RANGE)
            data = b"" if error else log.read(offset)
            topics.append((topic, [(number, error, log.end, log.end, None, data)]))
        return SimpleNamespace(API_VERSION=4, topics=topics)

    async def starts(self, request: Any) -> Any:
        return SimpleNamespace(
            API_VERSION=1,
            topics=[
                (topic, [(number, 0, -1, self.logs[topic, number].start) for number, _ in parts])
                for topic, parts in request._topics
            ],
        )

    async def ids(self, request: Any) -> Any:
        if self.is_silent_about_ids:
            await asyncio.sleep(3600)
        return SimpleNamespace(
            topics=[(0, topic, 0, self.topic_ids.get(topic, 0)) for _, _, topic, _ in request.values[0]]
        )

    async def fetch_offsets(self, request: Any) -> Any:
        codes = self.refuse.get("fetch_offsets")
        if codes:
            return SimpleNamespace(API_VERSION=3, error_code=codes.pop(0), topics=[])
        topics = [
            (
                topic,
                [
                    (number, self.committed.get((topic, number), -1), self.notes.get((topic, number), ""), 0)
                    for number in numbers
                ],
            )
            for topic, numbers in request._partitions
        ]
        return SimpleNamespace(API_VERSION=3, error_code=0, topics=topics)

    async def commit(self, request: Any) -> Any:
        error = self.group.refusal(request._consumer_id, request._consumer_group_generation_id)
        assigned = self.group.assigned
        if not error and not self.group.is_joining and assigned is not None and not assigned.done():
            error = REBALANCING
        topics = []
        for topic, parts in request._topics:
            for number, offset, note in parts:
                if not error:
                    self.notes[topic, number] = note
                    self.on_commit((topic, number), offset)
                    self.committed[topic, number] = offset
            topics.append((topic, [(number, error) for number, _, _ in parts]))
        return SimpleNamespace(topics=topics)

    async def heartbeat(self, request: Any) -> Any:
        error = self.group.refusal(request._member_id, request._generation_id)
        if not error and self.group.is_joining:
            error = REBALANCING
        return SimpleNamespace(error_code=error)

    async def leave(self, request: Any) -> Any:
        self.group.leave(request._member_id)
        return SimpleNamespace(error_code=0)


class Client:
    """Stands for one consumer's AIOKafkaClient, with one broker that leads everything."""

    def __init__(self, brokers: Brokers) -> None:
        self.brokers = brokers
        self.is_dead = False
        self.listeners: set[Callable[[Any], None]] = set()
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 30_000
        self.cluster = SimpleNamespace(
            add_listener=self.listeners.add,
            topics=lambda *_: set(brokers.partitions),
            partitions_for_topic=lambda topic: set(range(brokers.partitions.get(topic, 0))),
            leader_for_partition=lambda partition: 0,
            broker_metadata=lambda node: object(),
        )
        self._handlers = {
            "JoinGroupRequest": brokers.group.join,
            "SyncGroupRequest": brokers.group.sync,
            "HeartbeatRequest": brokers.heartbeat,
            "LeaveGroupRequest": brokers.leave,
            "OffsetFetchRequest": brokers.fetch_offsets,
            "OffsetCommitRequest": brokers.commit,
            "FetchRequest": brokers.fetch,
            "OffsetRequest": brokers.starts,
            "TopicIdsRequest": brokers.ids,
        }

    async def send(self, node: int, request: Any, *, group: Any = None) -> Any:
        name = type(request).__name__
        await self.brokers.pause(name)
        if self.is_dead:
            raise KafkaConnectionError
        answer = await self._handlers[name](request)
        await self.brokers.pause(f"{name} answered")
        if self.is_dead:
            raise KafkaConnectionError
        return answer

    async def bootstrap(self) -> None: ...

    async def close(self) -> None: ...

    def get_random_node(self) -> int:
        return 0

    async def ready(self, node: int, *, group: Any = None) -> bool:
        return True

    async def coordinator_lookup(self, *_: Any) -> int:
        return 0

    async def _maybe_wait_metadata(self) -> None: ...

    def force_metadata_update(self) -> asyncio.Future[bool]:
        return self.set_topics(())

    def set_topics(self, topics: Any) -> asyncio.Future[bool]:
        done = self._loop.create_future()
        done.set_result(True)
        return done


def consumer_of(brokers: Brokers) -> aiokafka.AIOKafkaConsumer:
    """Return a consumer that is not started yet, as a worker's is set."""
    made = aiokafka.AIOKafkaConsumer(
        group_id="group",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=50,
        retry_backoff_ms=20,
        session_timeout_ms=int(SESSION_S * 1000),
        heartbeat_interval_ms=100,
        max_poll_interval_ms=86_400_000,
    )
    made._client = Client(brokers)
    return made
