"""Faust's consumer without its ways from the broker to the agents and back, which are those of `FaustSource`.

Faust hands every message over by itself: two asyncio tasks, an event and a turn of a stream each, which costs
twenty times what aiokafka needs. Here an agent gets what one fetch brought for its topic, as a list. And Faust loses
messages that finish out of order; here only what `OffsetTracker` vouches for is committed.
docs/decisions/fast-stream-path.md says what is relied on; tests/unit/streams/faust/test_consumer.py notices when a new
version of Faust does it differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.delivery.offsets import Fetched
from streams.faust.consumer_thread import ConsumerThread, RebalanceListener
from streams.faust.membership import Membership
from streams.faust.source import FaustSource
from streams.kafka.patient_connections import PatientConnections
from streams.repeated_lines import FAUST_LOG
from streams.settings import KafkaSettings


class BatchConsumer(driver.Consumer):
    """Tells its source when a generation begins and ends; Faust fetches and commits nothing by itself."""

    RebalanceListener = RebalanceListener
    logger = FAUST_LOG
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.transport, BatchTransport)
        self._source = self.transport.source
        self._source.consumer = self

    def active_partitions(self) -> AbstractSet[TP]:
        """Return the partitions that are assigned."""
        partitions: AbstractSet[TP] = self._get_active_partitions()
        return partitions

    def queue_of(self, topic: str) -> asyncio.Queue[list[Fetched]]:
        """Return the queue of the topic's agent."""
        topics: Any = self.app.topics
        [channel] = topics._topic_name_index[topic]  # one agent each, so one queue
        queue: asyncio.Queue[list[Fetched]] = channel.queue
        return queue

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._source.close()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._source.assign(generation_id)
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Do nothing: positions were set in the consumer's thread, before anybody heard of the assignment."""

    def stop_flow(self) -> None:
        self._source.close()
        super().stop_flow()

    def resume_flow(self) -> None:
        self._source.open()
        super().resume_flow()

    async def wait_empty(self) -> None:
        """Let the listener answer and commit what is in flight; at once where the consumer is stopping."""
        await self.wait(self._source.listener.drain())

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Do nothing: what may be committed, and when, is the listener's."""
        return False

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch nothing: the listener does. Returns when Faust cancels it."""
        await asyncio.Event().wait()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class PatientProducer(driver.Producer):
    """Faust's producer, which does not try a broker that is away all the time."""

    logger = FAUST_LOG

    async def on_start(self) -> None:
        await super().on_start()
        PatientConnections(self._ensure_producer().client)


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = BatchConsumer
    Producer = PatientProducer

    def __init__(
        self, *args: Any, source: FaustSource, kafka: KafkaSettings, membership: Membership, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.source = source
        self.membership = membership
        self.kafka = kafka
