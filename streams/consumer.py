"""Faust's consumer with its way from the broker to the agents made ours; `streams.commits` has the way back.

Faust hands every message over by itself: two asyncio tasks, an event and a turn of a stream each, which costs
twenty times what aiokafka needs. Here an agent gets what one fetch brought for its topic, as a list.
docs/decisions/fast-stream-path.md says what is relied on; tests/unit/streams/test_consumer.py notices when a new
version of Faust does it differently.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

from aiokafka.errors import TopicAuthorizationFailedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.acks import Fetched, OrderedAcker, Place
from streams.assigned_partitions import ConsumerClosing
from streams.commits import CommittingConsumer
from streams.consumer_thread import ConsumerThread, RebalanceListener
from streams.kafka.patient_connections import PatientConnections
from streams.membership import Membership
from streams.settings import KafkaSettings

_FETCH_TIMEOUT_S = 1.0
_FETCH_BESIDE_HELD_BACK_S = 0.02
"""Time of an empty fetch that leaves out partitions held back, which nobody fetches until it ends."""
_NOTHING_ASSIGNED_S = 0.2


class BatchConsumer(CommittingConsumer):
    """Delivers what was fetched to the queue of each topic's agent.

    Each topic is followed by a task of its own, so no task's backlog holds up another's messages; a partition
    whose messages are held back is left out of its topic's fetches. One fetch lies in an agent's queue at most, as
    what it brought of each partition: whoever takes it calls `make_room`, and the next fetch begins.

    A generation is opened once, after its assignment, and closed once, by the next rebalance or the stop. Only
    for the one that is open is anything fetched. What comes of one that is closed is dropped, and delivered again
    in the next: that begins at the committed offsets, and so does the next worker.
    """

    RebalanceListener = RebalanceListener

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.transport, BatchTransport)
        self.acker = self.transport.acker
        self.membership = self.transport.membership
        self._room: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._generation: int | None = None
        """The one that is open."""
        self._next_generation: int | None = None
        self._is_open = asyncio.Event()

    def is_current(self, generation: int) -> bool:
        """Return whether what was fetched in `generation` is still this worker's to answer."""
        return generation == self._generation

    @property
    def stopped_partitions(self) -> dict[Place, str]:
        """Partitions of which no more is read until the worker starts again, as a batch cannot be read; with why."""
        return dict(self._thread.source.stopped)

    @property
    def removed_unread(self) -> dict[Place, int]:
        """How many offsets of each partition the broker had removed before they were read, since the start."""
        return dict(self._thread.source.removed_unread)

    def make_room(self, topic: str) -> None:
        """Say that what lay in the queue of `topic` has been taken."""
        self._room[topic].set()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._close_generation()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._next_generation = generation_id
        self.acker.forget_all()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Do nothing: positions were set in the consumer's thread, before anybody heard of the assignment."""

    def stop_flow(self) -> None:
        self._close_generation()
        super().stop_flow()

    def resume_flow(self) -> None:
        """Open the generation that was assigned, if no rebalance has begun since."""
        if self._next_generation is not None:
            self._generation, self._next_generation = self._next_generation, None
            self._is_open.set()
        super().resume_flow()

    def _close_generation(self) -> None:
        self._generation = self._next_generation = None
        self._is_open.clear()

    async def _drain_messages(self, fetcher: Any) -> None:
        async with asyncio.TaskGroup() as following:
            topics: Any = self.app.topics
            for topic, channels in topics._topic_name_index.items():
                [channel] = channels  # one agent each, so one queue
                if channel.queue.empty():
                    self.make_room(topic)
                following.create_task(self._follow(topic, channel.queue), name=f"follow {topic}")

    async def _follow(self, topic: str, queue: asyncio.Queue[list[Fetched]]) -> None:
        """Deliver what comes on `topic` for as long as this consumer runs."""
        membership = self.membership
        while not self.should_stop:
            await self._room[topic].wait()
            if self._generation is None:
                await self.wait(self._is_open.wait())
                continue
            assigned = {tp for tp in self._get_active_partitions() if tp.topic == topic}
            if not assigned:
                await self.sleep(_NOTHING_ASSIGNED_S)
                continue
            partitions = assigned - self.acker.held_back
            if not partitions:
                await self.wait(self.acker.progress())
                continue
            timeout_s = _FETCH_TIMEOUT_S if partitions == assigned else _FETCH_BESIDE_HELD_BACK_S
            try:
                await self._fetch(self._generation, topic, queue, partitions, timeout_s)
                membership.may_read(topic)
            except TopicAuthorizationFailedError:
                await self.sleep(membership.may_not_read(topic))
            except ConsumerClosing:
                if self.app.should_stop:
                    return
                raise

    async def _fetch(
        self,
        generation: int,
        topic: str,
        queue: asyncio.Queue[list[Fetched]],
        partitions: set[TP],
        timeout_s: float,
    ) -> None:
        """Have delivered what the consumer's thread has for `partitions`, or gets in time."""
        loop = asyncio.get_running_loop()

        def deliver(fetched: list[Fetched]) -> None:
            self._room[topic].clear()
            queue.put_nowait(fetched)
            # Else Faust takes a busy worker for one whose streams stand still, and says so.
            now = time.monotonic()
            self.app.monitor.stream_inbound_time.update({TP(*one.place): now for one in fetched})

        def hand_over(fetched: list[Fetched]) -> None:
            # Not as what the fetch returns, which would be lost where it is cancelled.
            loop.call_soon_threadsafe(deliver, fetched)

        # Not by Faust's `call_thread`: two calls are all it runs at once, and commits have to get through.
        fetching = self._thread.fetch(
            generation, partitions, self.app.conf.broker_max_poll_records, timeout_s, hand_over
        )
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetching, self._thread.thread_loop))

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    _thread: ConsumerThread


class PatientProducer(driver.Producer):
    """Faust's producer, which does not try a broker that is away all the time."""

    async def on_start(self) -> None:
        await super().on_start()
        PatientConnections(self._ensure_producer().client)


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = BatchConsumer
    Producer = PatientProducer

    def __init__(
        self, *args: Any, acker: OrderedAcker, kafka: KafkaSettings, membership: Membership, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.acker = acker
        self.membership = membership
        self.kafka = kafka
