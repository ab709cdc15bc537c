"""Source and sink of records on Kafka, as `streams.delivery.port` has them.

Faust runs the group and the agents, a separate thread owns the positions, aiokafka's producer sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from faust.types import TP

from streams.delivery.port import Fetched, Positions, ProducerRecord, RecordListener, TopicPartition
from streams.faust.membership import Membership
from streams.faust.positions import PartitionReader
from streams.kafka.aiokafka_internals import ConsumerClosing, fill
from streams.kafka.connection import is_passing_for

T = TypeVar("T")


class FaustConsumer(Protocol):
    """The part of `BatchConsumer` that a source uses."""

    @property
    def should_stop(self) -> bool: ...
    def active_partitions(self) -> AbstractSet[TP]: ...
    def queue_of(self, topic: str) -> asyncio.Queue[list[Fetched]]: ...


class FaustSource:
    """One Faust app's membership in its group, as a `streams.delivery.port.RecordSource`.

    A fetch waits in the queue of its topic's agent until the agent takes it. A generation opens once, after its
    assignment, and closes once, at the next rebalance or stop. The listener drops records of a closed generation;
    they are delivered again in a later one.
    """

    listener: RecordListener
    consumer: FaustConsumer
    """Faust's consumer sets it when it is made."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.reader = PartitionReader(membership.kafka)
        """Lives in the consumer's thread."""
        self._generation: int | None = None
        self._next_generation: int | None = None
        self._is_open = asyncio.Event()

    def attach(self, listener: RecordListener) -> None:
        self.listener = listener

    @property
    def generation(self) -> int | None:
        return self._generation

    async def opened(self) -> int:
        while self._generation is None:
            await self._is_open.wait()
        return self._generation

    def partitions(self, topic: str) -> AbstractSet[TopicPartition]:
        return {tp for tp in self.consumer.active_partitions() if tp.topic == topic}

    async def fetch(
        self, generation: int, topic: str, partitions: Collection[TopicPartition], most: int, timeout_s: float
    ) -> None:
        loop, queue = asyncio.get_running_loop(), self.consumer.queue_of(topic)

        def hand_over(fetched: list[Fetched]) -> None:
            # Not as the result of the fetch, which would be lost when it is cancelled.
            loop.call_soon_threadsafe(queue.put_nowait, fetched)

        try:
            await self._in_thread(self.reader.deliver(generation, partitions, most, timeout_s, hand_over))
            self.membership.may_read(topic)
        except TopicAuthorizationFailedError:
            await asyncio.sleep(self.membership.may_not_read(topic))
        except ConsumerClosing:
            if not self.consumer.should_stop:
                raise
            self.close()
        await queue.join()

    async def commit(self, positions: Positions) -> Mapping[TopicPartition, int]:
        return await self._in_thread(self.reader.commit(positions))

    def take(self, topic: str, fetched: list[Fetched]) -> None:
        """Take a fetch from an agent."""
        self.consumer.queue_of(topic).task_done()
        self.listener.take(topic, fetched)

    def assign(self, generation: int, assigned: Collection[TopicPartition]) -> None:
        """Called by Faust with an assignment, which opens later."""
        self._next_generation = generation
        self.listener.begin(assigned)

    def open(self) -> None:
        """Open the generation that was assigned, if no rebalance has begun since."""
        if self._next_generation is not None:
            self._generation, self._next_generation = self._next_generation, None
            self._is_open.set()

    def close(self) -> None:
        """Called by Faust when a rebalance or the stop begins."""
        self._generation = self._next_generation = None
        self._is_open.clear()

    async def _in_thread(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the consumer's thread.

        Faust's `call_thread` runs only two calls at once, and a commit may wait for its coordinator.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.reader.loop))


class ProducerSink:
    """Sends batches with an AIOKafkaProducer, whose own `send` makes two futures and finds a partition per record."""

    def __init__(self, producer: Callable[[], Any]) -> None:
        """`producer` returns the started AIOKafkaProducer."""
        self._producer = producer

    async def partitions(self, topic: str) -> list[int]:
        producer = self._producer()
        try:
            return sorted(await producer.partitions_for(topic))
        except UnknownTopicOrPartitionError as error:
            if await is_passing_for(producer, topic, error):
                raise KafkaTimeoutError(f"no broker knows topic {topic} yet") from error
            raise

    async def send(self, topic: str, partition: int, records: Sequence[ProducerRecord]) -> tuple[int, Exception | None]:
        producer = self._producer()
        batch = producer.create_batch()
        count = fill(batch, records)
        try:
            await (await producer.send_batch(batch, topic, partition=partition))
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            return count, error
        return count, None
