"""The port between the delivery of requests and Kafka: where records come from, and where outcomes go.

Two implementations ship: Faust's consumer and aiokafka's producer (`streams.faust.source`,
`streams.faust.producer_sink`), and a broker in memory (`streams.delivery.memory_broker`). Errors are those of
`aiokafka.errors`, and error codes the brokers' own, in both. All of it lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, Protocol

import msgspec

from streams.kafka.cloudevents import Headers

TopicPartition = tuple[str, int]
"""A topic and one of its partitions; Faust's and aiokafka's own types for it are equal to it."""


UNKNOWN_OFFSET = -1
"""What the group has where a log was replaced: it is of the log before, and a commit may be on its way."""


class Position(NamedTuple):
    """How far a partition is done, as it is committed."""

    offset: int
    epoch: int
    """Of which log; a commit of one that is over is refused."""
    note: str = ""
    """What the group keeps beside the offset, of `streams.delivery.crash_guard`."""


Positions = Mapping[TopicPartition, Position]


class PositionLost(RuntimeError):
    """Raised where records that were fetched did not arrive: permanent, for a commit would pass them."""


class Record(msgspec.Struct, eq=False):
    """One message as the broker delivered it to this worker, and how far it has come."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """In milliseconds since the epoch; -1 where nobody knows."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    is_done: bool = False
    crashes: int = 0
    """How many workers ended with it; set where it is to be given up for that."""
    since: float = 0.0
    account: Any = None
    """Where it is in flight; set by the tracker."""


class Fetched(msgspec.Struct, eq=False):
    """What one fetch brought of one partition: all that its log has from `start` up to `end`."""

    topic: str
    partition: int
    generation: int
    """Counts the assignments of this process; another has others, whatever the broker calls them."""
    epoch: int
    """Counts the logs that were begun: one for each partition of an assignment, and again where a log was replaced."""
    start: int
    end: int
    """Above the last record's offset plus one where markers of transactions, aborted records or gaps follow it."""
    records: Sequence[Record] = ()
    begins: bool = False
    """Whether it is the first of its epoch."""
    committed: int | None = None
    """What the group has for the partition, None for nothing; looked at where it begins."""
    note: str = ""
    """What the group keeps beside that."""

    @property
    def place(self) -> TopicPartition:
        return (self.topic, self.partition)


class DeliveryReport(msgspec.Struct, eq=False):
    """Records of one caller on their way; `ended` is called once, and each kind of caller says what follows."""

    missing: int = 0
    """How many records are still on their way; kept by the producer, as all here."""
    error: Exception | None = None
    """Why the broker does not take the first that it refused."""
    refused: tuple[ProducerRecord, ...] = ()
    """What the broker does not take; it may have all others."""

    def ended(self, error: Exception | None) -> None:
        """Called when the broker has all records, or with why it does not take one; must not raise.

        Nothing is on its way any more.
        """
        raise NotImplementedError

    def arrived(self) -> None:
        """Count one record that the broker has."""
        self.missing -= 1
        if not self.missing:
            self.ended(self.error)

    def failed(self, record: ProducerRecord, error: Exception) -> None:
        """Note that the broker does not take `record`."""
        if self.error is None:
            self.error = error
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
    """Whose it is while it is on its way; set by the producer."""


class RecordListener(Protocol):
    """What a source calls: the delivery of requests."""

    def take(self, topic: str, fetched: Sequence[Fetched]) -> None:
        """Take what one fetch brought of `topic`. Does not wait, and does not raise."""

    def begin(self) -> None:
        """Forget what was not committed: the partitions were handed out again. Called before a generation opens."""

    async def drain(self, within_s: float | None = None) -> None:
        """Return once all that was taken is answered and committed, as far as it can be within `within_s`.

        What no engine has begun with is given up at once. Called after a generation was closed, before its partitions
        go to others. What is not answered comes again.
        """


class RecordSource(Protocol):
    """One member of a consumer group.

    A generation is one assignment of partitions to this member, numbered by itself. It opens once and closes once.
    What is fetched in a generation is handed over in order and without holes while it is open; the next one begins at
    the committed offsets, so what is left is fetched again, here or elsewhere.
    """

    def attach(self, listener: RecordListener) -> None:
        """Set who takes the records; before this member joins."""

    @property
    def generation(self) -> int | None:
        """The open generation; None while there is none."""

    async def opened(self) -> int:
        """Return the open generation, as soon as there is one."""

    def partitions(self, topic: str) -> AbstractSet[TopicPartition]:
        """Return the partitions of `topic` that are assigned to this member."""

    async def fetch(
        self, generation: int, topic: str, partitions: Collection[TopicPartition], most: int, timeout_s: float
    ) -> None:
        """Have the listener take, in one call, up to `most` records of these partitions.

        Returns when it has taken them, or after about `timeout_s` where there are none. Nothing is taken where
        `generation` has ended. A partition that is not named is paused: nothing of it is taken.

        Raises:
            KafkaError: permanent.
            PositionLost: permanent; records are missing between two fetches.
        """

    async def commit(self, positions: Positions) -> Mapping[TopicPartition, int]:
        """Ask once to commit these positions and their notes; return the broker's code for each.

        0 where the broker has it. Those of an epoch that is over are neither committed nor returned. The code is that
        of a time-out where the broker may or may not have it. `Fetched.note` tells the note where a partition begins.

        Raises:
            KafkaError: permanent; the broker refuses an offset for a reason that no waiting ends.
        """


class RecordSink(Protocol):
    """Where outcomes are sent; each is on the broker, or refused."""

    async def partitions(self, topic: str) -> list[int]:
        """Return the partitions of `topic`, in order.

        Raises:
            KafkaError: the topic is not there, or may not be written.
        """

    async def send(
        self, topic: str, partition: int, records: Sequence[ProducerRecord]
    ) -> tuple[int, Exception | None]:
        """Send as many of the first `records` as one batch holds, at least one.

        Return how many those are, and None where the broker has them all, or why it may not have them.

        Raises:
            Exception: permanent; one of the records cannot be written.
        """
