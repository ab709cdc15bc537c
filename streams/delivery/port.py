"""The port between delivery and Kafka: where records come from, and where outcomes go.

Two implementations ship: Faust's consumer with aiokafka's producer (`streams.faust.port`), and a broker in memory
(`streams.delivery.memory_broker`). Both raise the errors of `aiokafka.errors` and return the error codes of Kafka.
Everything here lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, Protocol

import msgspec

from streams.kafka.cloudevents import Headers

TopicPartition = tuple[str, int]
"""A topic and one of its partitions; equal to Faust's and aiokafka's own types for it."""


UNKNOWN_OFFSET = -1
"""Stands for the committed offset of a replaced log, which belongs to the old log; a commit may be under way."""


class Position(NamedTuple):
    """The committed offset of a partition, or one to commit."""

    offset: int
    epoch: int
    """The log it belongs to; commits of an earlier epoch are refused."""
    note: str = ""
    """The metadata committed with the offset, made by `streams.delivery.crash_guard`."""


Positions = Mapping[TopicPartition, Position]


class PositionLost(RuntimeError):
    """Raised where fetched records did not arrive. Permanent: a commit would pass them."""


class Record(msgspec.Struct, eq=False):
    """One message as it was fetched, and the state of its delivery."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """In milliseconds since the epoch; -1 where it is not known."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    is_done: bool = False
    crashes: int = 0
    """How many workers died while they ran it; set where it must not run again."""
    since: float = 0.0
    account: Any = None
    """Its partition in the tracker; set by the tracker."""
    fetched_again: Record | None = None
    """The same record as it was fetched after a rebalance, where that one is acked in its place."""

    @property
    def digest(self) -> int:
        """Tells it from another record at the same offset, as of a topic that was made again."""
        return hash((self.timestamp, self.key, self.value))


class Fetched(msgspec.Struct, eq=False):
    """One fetch of one partition: all records of its log from `start` up to `end`."""

    topic: str
    partition: int
    generation: int
    """Counts the assignments of this process; not the broker's number."""
    epoch: int
    """Counts logs: a new one for each partition of an assignment, and where a log was replaced."""
    start: int
    end: int
    """Larger than the last record's offset plus one where transaction markers, aborted records or gaps follow it."""
    records: Sequence[Record] = ()
    begins: bool = False
    """Whether this is the first fetch of its epoch."""
    committed: int | None = None
    """The committed offset of the partition, None for none; only read where `begins`."""
    note: str = ""
    """The metadata of that offset."""

    @property
    def place(self) -> TopicPartition:
        return (self.topic, self.partition)


class DeliveryReport(msgspec.Struct, eq=False):
    """Records that one caller sent; `ended` is called once. Each kind of caller overrides it."""

    missing: int = 0
    """How many records the broker has not answered yet; kept by the producer, like all fields here."""
    error: Exception | None = None
    """Why the broker refused the first record that it refused."""
    refused: tuple[ProducerRecord, ...] = ()
    """The refused records; the broker may have all others."""

    def ended(self, error: Exception | None) -> None:
        """Called when the broker has answered for every record; `error` says why it refused one. Must not raise."""
        raise NotImplementedError

    def answered(self, record: ProducerRecord, error: Exception | None) -> None:
        """Count one record that the broker has, or refuses with `error`."""
        if error is not None:
            self.error = self.error or error
            self.refused += (record,)
        self.missing -= 1
        if not self.missing:
            self.ended(self.error)


class ProducerRecord(msgspec.Struct, eq=False):
    """One record to send."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    delivery: DeliveryReport | None = None
    """The report of the caller that sent it; set by the producer."""


class RecordListener(Protocol):
    """What a source calls: the delivery of requests implements it."""

    def take(self, topic: str, fetched: Sequence[Fetched]) -> None:
        """Take the records of one fetch of `topic`. Must not wait and must not raise."""

    def begin(self, assigned: Collection[TopicPartition]) -> None:
        """Forget what was not committed: these partitions are assigned now. Called before a generation opens."""

    async def drain(self, within_s: float | None = None) -> None:
        """Return once everything taken is answered and committed, after `within_s` at the latest.

        Gives up at once what no engine has begun with. Called after a generation was closed and before its partitions
        go to others. What is not answered is fetched again by the next owner.
        """


class RecordSource(Protocol):
    """One member of a consumer group.

    A generation is one assignment of partitions to this member, with a number of this process. It opens once and
    closes once. While it is open, records are handed over in order and without holes. The next generation begins at
    the committed offsets, so unanswered records are fetched again, here or elsewhere.
    """

    def attach(self, listener: RecordListener) -> None:
        """Set the listener; call it before this member joins."""

    @property
    def generation(self) -> int | None:
        """The open generation; None while there is none."""

    async def opened(self) -> int:
        """Wait for an open generation and return it."""

    def partitions(self, topic: str) -> AbstractSet[TopicPartition]:
        """Return the partitions of `topic` that are assigned to this member."""

    async def fetch(
        self, generation: int, topic: str, partitions: Collection[TopicPartition], most: int, timeout_s: float
    ) -> None:
        """Fetch up to `most` records of these partitions and hand them to the listener in one call.

        Returns after about `timeout_s` where there are none. Does nothing where `generation` has ended. A partition
        that is not named is paused.

        Raises:
            KafkaError: permanent.
            PositionLost: permanent; records are missing between two fetches.
        """

    async def commit(self, positions: Positions) -> Mapping[TopicPartition, int]:
        """Ask the broker once to commit these positions with their notes; return its error code for each.

        0 means committed, and the code of a time-out that the broker may or may not have it. Positions of an epoch
        that has ended are left out.

        Raises:
            KafkaError: permanent; the broker refuses an offset, and retrying cannot help.
        """


class RecordSink(Protocol):
    """Sends outcomes; each is stored on the broker or refused."""

    async def partitions(self, topic: str) -> list[int]:
        """Return the partitions of `topic`, in order.

        Raises:
            KafkaError: the topic is not there, or may not be written.
        """

    async def send(self, topic: str, partition: int, records: Sequence[ProducerRecord]) -> tuple[int, Exception | None]:
        """Send as many of the first `records` as one batch holds, at least one.

        Return how many, and None where the broker has them all, else the error: it may or may not have them.

        Raises:
            Exception: permanent; one of the records cannot be written.
        """
