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
from collections.abc import Mapping, Sequence
from typing import Any

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.acks import OrderedAcker, Place, Received
from streams.commits import CommittingConsumer, CommittingThread
from streams.fetched_records import deliver_as_received
from streams.header_names import forgive_header_names

_FETCH_TIMEOUT_S = 1.0
_FETCH_BESIDE_HELD_BACK_S = 0.02
"""Time of an empty fetch that leaves out partitions held back, which nobody fetches until it ends."""
_NOTHING_ASSIGNED_S = 0.2

Fetched = Mapping[TP, Sequence[Received]]


class BatchConsumer(CommittingConsumer):
    """Delivers what was fetched to the queue of each topic's agent.

    Each topic is followed by a task of its own, so no task's backlog holds up another's messages; a partition
    whose messages are held back is left out of its topic's fetches. One fetch lies in an agent's queue at most, as
    a list for each partition: whoever takes it calls `make_room`, and the next fetch begins.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.transport, BatchTransport)
        self.acker = self.transport.acker
        self._room: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._delivered: dict[Place, int] = {}

    def is_current(self, generation: int) -> bool:
        """Return whether what was fetched in `generation` is still this worker's to answer."""
        return (
            self.flow_active
            and self.app.flow_control.is_active()
            and generation == self.app.consumer_generation_id
        )

    def make_room(self, topic: str) -> None:
        """Say that the list in the queue of `topic` has been taken."""
        self._room[topic].set()

    def resume_flow(self) -> None:
        """Go on after a rebalance; the queues are empty and all partitions at their committed offsets."""
        self.acker.forget_all_but(self.app.consumer_generation_id)
        self._delivered.clear()
        super().resume_flow()
        for room in self._room.values():
            room.set()

    async def _drain_messages(self, fetcher: Any) -> None:
        async with asyncio.TaskGroup() as following:
            topics: Any = self.app.topics
            for topic, channels in topics._topic_name_index.items():
                [channel] = channels  # one agent each, so one queue
                self.make_room(topic)
                following.create_task(self._follow(topic, channel.queue), name=f"follow {topic}")

    async def _follow(self, topic: str, queue: asyncio.Queue[list[list[Received]]]) -> None:
        """Deliver what comes on `topic` for as long as this consumer runs."""
        while not self.should_stop:
            await self._room[topic].wait()
            if not self.flow_active:
                await self.wait(self.can_resume_flow.wait())
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
                generation, fetched = await self._fetch(partitions, timeout_s)
            except self.consumer_stopped_errors:
                if self.app.should_stop:
                    return
                raise
            # What was fetched before a rebalance is fetched again, by this worker or another.
            if fetched and self.is_current(generation):
                received = self._received(generation, fetched)
                if received:
                    self._room[topic].clear()
                    queue.put_nowait(received)

    async def _fetch(self, partitions: set[TP], timeout_s: float) -> tuple[int, Fetched]:
        """Return what the consumer's thread has for `partitions`, or gets in time, and its generation."""
        # Not by Faust's `call_thread`: two calls are all it runs at once, and commits have to get through.
        fetching = self._thread.fetch(partitions, self.app.conf.broker_max_poll_records, timeout_s)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetching, self._thread.thread_loop))

    def _received(self, generation: int, fetched: Fetched) -> list[list[Received]]:
        """Return of each partition the messages that were not delivered in this generation yet."""
        now = time.monotonic()
        # Else Faust takes a busy worker for one whose streams stand still, and says so.
        self.app.monitor.stream_inbound_time.update(dict.fromkeys(fetched, now))
        received = []
        for tp, messages in fetched.items():
            # A fetch that overtakes the seek after a rebalance brings records twice.
            delivered = self._delivered.get(tp, -1)
            if new := [message for message in messages if message.offset > delivered]:
                for message in new:
                    message.generation = generation
                received.append(new)
                self._delivered[tp] = new[-1].offset
        return received

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    _thread: _ConsumerThread


class _ConsumerThread(CommittingThread):
    """Owns the aiokafka consumer, on an event loop in a thread of its own."""

    async def fetch(
        self, partitions: set[TP], max_records: int | None, timeout_s: float
    ) -> tuple[int, Fetched]:
        """Return the generation and the records of one fetch; runs in this thread."""
        consumer = self._ensure_consumer()
        fetched = await self._fetch_records(consumer, partitions, timeout=timeout_s, max_records=max_records)
        # Asked for here, where no rebalance can come between: a fetch may outlast one.
        return consumer._coordinator.generation, fetched

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        forgive_header_names()
        consumer = super()._create_worker_consumer(transport)
        assert isinstance(transport, BatchTransport)
        deliver_as_received(consumer)
        # A setting of ours; Faust hard-codes 1.5 s.
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms
        return consumer


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = BatchConsumer

    def __init__(self, *args: Any, acker: OrderedAcker, fetch_max_wait_ms: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.acker = acker
        self.fetch_max_wait_ms = fetch_max_wait_ms
