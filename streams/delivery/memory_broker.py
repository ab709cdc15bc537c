"""A broker in memory, for tests and simulations: topics, consumer groups and commits that behave as Kafka's do.

It keeps what Kafka promises; everything that Kafka does not promise may go wrong. `on_request` is awaited before and
after each request of a client, and may wait, or raise an error of `aiokafka.errors` as a connection would.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import errors

from streams.delivery.port import Positions, ProducerRecord, Record, TopicPartition

OnRequest = Callable[[str], Awaitable[None]]
"""Called with the name of a request as it leaves a client, such as `fetch`, and with `fetch answered` before its
answer arrives."""

UNKNOWN_MEMBER: int = errors.UnknownMemberIdError.errno
ILLEGAL_GENERATION: int = errors.IllegalGenerationError.errno
REBALANCING: int = errors.RebalanceInProgressError.errno
MEMBERSHIP_CODES = frozenset({UNKNOWN_MEMBER, ILLEGAL_GENERATION, REBALANCING})


class Log:
    """The records of one partition, in the order of their offsets."""

    def __init__(self) -> None:
        self.end = 0
        self._records: list[Record] = []
        self._offsets: list[int] = []

    def append(self, record: Record) -> None:
        self._records.append(record)
        self._offsets.append(record.offset)
        self.end = record.offset + 1

    def skip(self, count: int) -> None:
        """Use up offsets without a record, as the marker of a transaction or an aborted record does."""
        self.end += count

    def read(self, offset: int, most: int) -> tuple[Sequence[Record], int]:
        """Return up to `most` records from `offset` on, and the offset up to which nothing else exists."""
        first = bisect_left(self._offsets, offset)
        records = self._records[first : first + most]
        return records, self.end if first + most >= len(self._records) else self._offsets[first + most]


@dataclass(eq=False)
class _Member:
    topics: frozenset[str]
    joined: asyncio.Future[tuple[int, frozenset[TopicPartition]]] | None = None
    """Ends with the assignment that the member waits for."""
    expiry: asyncio.TimerHandle | None = None


@dataclass
class Group:
    """The coordinator of one consumer group. Members join, are assigned partitions, send heartbeats and commit."""

    partitions: Callable[[str], Iterable[TopicPartition]]
    session_s: float
    rebalance_s: float
    generation: int = 0
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    notes: dict[TopicPartition, str] = field(default_factory=dict)
    """The metadata of those offsets."""
    members: dict[str, _Member] = field(default_factory=dict)
    _deadline: asyncio.TimerHandle | None = None
    """When the rebalance ends, with the members that have joined by then; None where there is none."""

    def join(self, name: str, topics: Iterable[str]) -> asyncio.Future[tuple[int, frozenset[TopicPartition]]]:
        """Start a rebalance. The future ends with the new generation and this member's partitions."""
        loop = asyncio.get_running_loop()
        member = self.members.setdefault(name, _Member(frozenset(topics)))
        if member.expiry is not None:
            member.expiry.cancel()
        member.joined = joined = loop.create_future()
        if self._deadline is None:
            self._deadline = loop.call_later(self.rebalance_s, self._assign)
        self._assign_if_all_joined()
        return joined

    def leave(self, name: str) -> None:
        """Remove a member; a rebalance gives its partitions to others."""
        member = self.members.pop(name, None)
        if member is None:
            return
        if member.expiry is not None:
            member.expiry.cancel()
        if self._deadline is None and self.members:
            self._deadline = asyncio.get_running_loop().call_later(self.rebalance_s, self._assign)
        self._assign_if_all_joined()

    def heartbeat(self, name: str, generation: int) -> int:
        """Note that a member lives; return an error code of Kafka's, 0 for none."""
        code = self._refusal(name, generation)
        if code != UNKNOWN_MEMBER:
            self._expect(name)
        return code or (REBALANCING if self._deadline is not None else 0)

    def committed_by_now(self) -> tuple[dict[TopicPartition, int], dict[TopicPartition, str]]:
        """Return the committed offsets and their metadata."""
        return self.committed.copy(), self.notes.copy()

    def commit(self, name: str, generation: int, positions: Positions) -> int:
        """Store all positions or none; return an error code of Kafka's, 0 for none."""
        code = self._refusal(name, generation)
        if not code:
            self.committed.update({place: one.offset for place, one in positions.items()})
            self.notes.update({place: one.note for place, one in positions.items()})
        return code

    def _refusal(self, name: str, generation: int) -> int:
        if name not in self.members:
            return UNKNOWN_MEMBER
        return ILLEGAL_GENERATION if generation != self.generation else 0

    def _expect(self, name: str) -> None:
        """Remove a member that sends no heartbeat for a session, unless it waits for its assignment."""
        member = self.members[name]
        if member.joined is not None:
            return
        if member.expiry is not None:
            member.expiry.cancel()
        member.expiry = asyncio.get_running_loop().call_later(self.session_s, self.leave, name)

    def _assign_if_all_joined(self) -> None:
        if self._deadline is not None and all(one.joined for one in self.members.values()):
            self._deadline.cancel()
            self._assign()

    def _assign(self) -> None:
        """End the rebalance: deal the partitions out, in turn, to the members that have joined."""
        self._deadline = None
        self.members = {name: one for name, one in self.members.items() if one.joined is not None}
        self.generation += 1
        dealt: dict[str, set[TopicPartition]] = {name: set() for name in self.members}
        for topic in sorted({topic for one in self.members.values() for topic in one.topics}):
            takers = [name for name, one in self.members.items() if topic in one.topics]
            for number, place in enumerate(self.partitions(topic)):
                dealt[takers[number % len(takers)]].add(place)
        for name, member in self.members.items():
            joined, member.joined = member.joined, None
            self._expect(name)
            if joined is not None and not joined.done():
                joined.set_result((self.generation, frozenset(dealt[name])))


class MemoryBroker:
    """Topics with their records, and groups with their offsets. Lives on one event loop.

    `streams.delivery.memory_client` has the source and the sink that a worker's delivery uses.
    """

    def __init__(
        self,
        topics: Mapping[str, int],
        *,
        session_s: float = 30.0,
        rebalance_s: float = 60.0,
        max_message_bytes: int = 1_000_000,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`topics` names each topic with its number of partitions."""
        self.max_message_bytes = max_message_bytes
        self.logs: dict[TopicPartition, Log] = {}
        self._topics = dict(topics)
        self._session_s, self._rebalance_s = session_s, rebalance_s
        self._wall_clock = wall_clock
        self._groups: dict[str, Group] = {}
        self._arrivals: dict[str, asyncio.Future[None]] = {}
        for topic, count in topics.items():
            self.logs.update({(topic, number): Log() for number in range(count)})

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return the partitions of `topic`.

        Raises:
            UnknownTopicOrPartitionError: permanent; there is no such topic.
        """
        if topic not in self._topics:
            raise errors.UnknownTopicOrPartitionError(topic)
        return [(topic, number) for number in range(self._topics[topic])]

    def group(self, name: str) -> Group:
        """Return the group `name`, made where it is not there yet."""
        if name not in self._groups:
            self._groups[name] = Group(self.partitions, self._session_s, self._rebalance_s)
        return self._groups[name]

    def append(self, topic: str, partition: int, records: Sequence[ProducerRecord]) -> int:
        """Append records, or none where one is refused; return the offset of the first.

        Raises:
            MessageSizeTooLargeError: permanent.
            UnknownTopicOrPartitionError: permanent; there is no such topic or partition.
        """
        log = self.logs.get((topic, partition))
        if log is None:
            raise errors.UnknownTopicOrPartitionError(f"{topic}/{partition}")
        if any(len(one.key or b"") + len(one.value or b"") > self.max_message_bytes for one in records):
            raise errors.MessageSizeTooLargeError
        first = log.end
        at_ms = int(1000 * self._wall_clock())
        for one in records:
            log.append(Record(topic, partition, log.end, at_ms, one.key, one.value, one.headers))
        arrival = self._arrivals.pop(topic, None)
        if arrival is not None:
            arrival.set_result(None)
        return first

    def records(self, topic: str) -> list[Record]:
        """Return all records of `topic`, partition by partition."""
        return [one for place in self.partitions(topic) for one in self.logs[place].read(0, 2**63)[0]]

    def commit(self, group: str, member: str, generation: int, positions: Positions) -> int:
        """Store all positions of a group or none; return an error code of Kafka's, 0 for none."""
        return self.group(group).commit(member, generation, positions)

    def arrival(self, topic: str) -> asyncio.Future[None]:
        """Return a future that ends when the next records of `topic` arrive. It is shared: do not cancel it."""
        if topic not in self._arrivals:
            self._arrivals[topic] = asyncio.get_running_loop().create_future()
        return self._arrivals[topic]
