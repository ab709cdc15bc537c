"""The record source on Kafka: Faust runs the group and the agents, a separate thread owns the positions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

from aiokafka.errors import TopicAuthorizationFailedError
from faust.types import TP

from streams.delivery.port import Fetched, Positions, RecordListener, TopicPartition
from streams.faust.membership import Membership
from streams.faust.positions import PartitionReader
from streams.kafka.aiokafka_internals import ConsumerClosing

T = TypeVar("T")


class FaustConsumer(Protocol):
    """The part of Faust's consumer that a source uses."""

    @property
    def should_stop(self) -> bool:
        """Whether it is being stopped."""

    def active_partitions(self) -> AbstractSet[TP]:
        """Return the partitions that are assigned."""

    def queue_of(self, topic: str) -> asyncio.Queue[list[Fetched]]:
        """Return the queue of the topic's agent."""


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
        self._membership = membership
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
            self._membership.may_read(topic)
        except TopicAuthorizationFailedError:
            await asyncio.sleep(self._membership.may_not_read(topic))
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

    def assign(self, generation: int) -> None:
        """Called by Faust with an assignment, which opens later."""
        self._next_generation = generation
        self.listener.begin()

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
