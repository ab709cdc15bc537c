"""Subclasses of Faust's classes: everything that touches what Faust does not promise.

Faust handles every message by itself: two asyncio tasks, an event and a turn of a stream each, which costs twenty
times what aiokafka needs. It also loses messages that finish out of order. Here Faust keeps the app, the group and
the agents; `FaustSource` and `PartitionReader` move records from the broker to the agents, and commits back.
docs/decisions/fast-stream-path.md lists what is relied on; tests/unit/streams/faust/test_faust_internals.py fails
when a new version of Faust differs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.transport.consumer import ensure_TPset
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from handlers.logger import get_logger
from streams.delivery.port import Fetched
from streams.faust.group_supervisor import Supervisor
from streams.faust.port import FaustSource
from streams.kafka.aiokafka_internals import ConsumerClosing, Coordination, client_of
from streams.kafka.connection import connection_options
from streams.kafka.patient_connections import PatientConnections
from streams.repeated_lines import FAUST_LOG
from streams.settings import KafkaSettings

log = get_logger(__name__)

_LARGEST_BATCH_BYTES = 256 * 1024
_LEAVE_S = 1.5
"""Longest wait for the coordinator when this worker leaves, in seconds; the group notices by itself later."""


class InferenceApp(faust.App):
    """Faust with our consumer, and without the folders for tables, which are not used."""

    logger = FAUST_LOG
    is_draining = False
    """Whether the worker stops, and waits for the answers to all that it has taken."""
    _is_drained = False

    def kafka_producer(self) -> AIOKafkaProducer:
        """Return the started producer that Faust sends with."""
        return cast(Any, self.producer)._ensure_producer()

    async def drain(self) -> None:
        """Take nothing more. Return once everything taken is answered and committed, as far as possible."""
        self.is_draining = True
        try:
            await self._stop_consumer()
        finally:
            self._is_drained = True

    async def _stop_consumer(self) -> None:
        if not self._is_drained:
            await super()._stop_consumer()

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        if not self.is_draining:
            await super()._on_partitions_assigned(assigned, generation_id)

    async def _producer_flush(self, logger: Any) -> None:
        """Do nothing: Faust would wait without end for its producer; our sends are awaited one by one."""

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing: Faust would close the consumer here, on the wrong loop; it is being stopped already."""

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:
        """Return a queue that is never emptied: records of an old generation are dropped after the agent.

        Faust empties its queues when a rebalance begins and whenever the flow resumes, which can be too late.
        """
        return super().FlowControlQueue(maxsize, clear_on_resume=False)

    def _create_directories(self) -> None:
        pass


class PatientProducer(driver.Producer):
    """Faust's producer, with growing pauses between attempts to connect to a broker that is away."""

    logger = FAUST_LOG

    async def on_start(self) -> None:
        await super().on_start()
        PatientConnections(self._ensure_producer().client)

    def _new_producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        kafka = cast(BatchTransport, self.transport).kafka
        return AIOKafkaProducer(
            **connection_options(kafka),
            client_id=self.client_id,
            acks="all",
            max_request_size=kafka.max_message_bytes,
            max_batch_size=min(_LARGEST_BATCH_BYTES, kafka.max_message_bytes),
            request_timeout_ms=int(kafka.producer_timeout_s * 1000),
        )


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread of the aiokafka consumer, which `PartitionReader` reads from.

    It reports why the group refuses it, and leaves the group in time.
    """

    logger = FAUST_LOG

    def __post_init__(self) -> None:
        super().__post_init__()
        source = cast(BatchTransport, self.transport).source
        self.reader, self.membership = source.reader, source.membership
        self._supervisor: Supervisor | None = None

    async def on_start(self) -> None:
        await super().on_start()
        consumer = self._ensure_consumer()
        self.reader.attach(consumer)
        PatientConnections(client_of(consumer))
        self._supervisor = Supervisor(Coordination(consumer), self.membership)
        self.add_future(self._supervisor.watch())

    async def on_thread_stop(self) -> None:
        """Leave the group and close the consumer, as far as the brokers answer."""
        await self.reader.stop()
        if self._supervisor is not None:
            await self._supervisor.leave_while_joining()
        closing = asyncio.create_task(self._close_consumer())
        await asyncio.wait({closing}, timeout=_LEAVE_S)
        if closing.done():
            closing.result()
        else:
            log.warning("group_not_left", group=self.membership.kafka.group_id, waited_s=_LEAVE_S)

    async def _close_consumer(self) -> None:
        try:
            await super().on_thread_stop()
        except asyncio.CancelledError:
            # aiokafka's fetcher may raise its own cancellation; the connections are still open then.
            if self._consumer is not None:
                await client_of(self._consumer).close()

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        """Return a consumer with our settings: Faust's own has one time limit for requests and for joins.

        That limit must exceed the time of a join, so a silent connection would block a partition for minutes.
        """
        kafka = cast(BatchTransport, transport).kafka
        return AIOKafkaConsumer(
            **connection_options(kafka),
            client_id=self.app.conf.broker_client_id,
            group_id=kafka.group_id,
            group_instance_id=kafka.group_instance_id,
            enable_auto_commit=False,
            # Only streams/faust/positions.py sets positions; a reset by aiokafka would bypass it.
            auto_offset_reset="none",
            # A worker that is busy longer than this leaves the group and, in Faust 0.15.3, never comes back.
            max_poll_interval_ms=math.inf,
            session_timeout_ms=int(kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=int(kafka.heartbeat_interval_s * 1000),
            rebalance_timeout_ms=int(kafka.rebalance_timeout_s * 1000),
            request_timeout_ms=int(kafka.request_timeout_s * 1000),
            fetch_max_wait_ms=kafka.fetch_max_wait_ms,
            isolation_level=kafka.isolation_level,
            metadata_max_age_ms=int(kafka.metadata_max_age_s * 1000),
        )


class RebalanceListener(driver.ConsumerRebalanceListener):
    """Ends and begins generations while aiokafka's rebalance stands still, before Faust is told."""

    _thread: ConsumerThread

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        thread = self._thread
        thread.reader.close()
        thread.membership.is_answering = True
        async with _fatal_errors(thread):
            await super().on_partitions_revoked(revoked)
        thread.membership.is_answering = False

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Set all positions, then tell Faust of the assignment under our own number.

        The broker's generation does not identify an assignment: it is -1 whenever the group has removed the worker.
        """
        thread = self._thread
        async with _fatal_errors(thread):
            generation = await thread.reader.begin()
            thread.app.consumer_generation_id = generation
            await thread.on_partitions_assigned(ensure_TPset(assigned), generation)


@asynccontextmanager
async def _fatal_errors(thread: ConsumerThread) -> AsyncIterator[None]:
    """End the worker with an error of the body: aiokafka would log it and go on for ever without a generation."""
    try:
        yield
    except ConsumerClosing:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker ends with it
        await thread.crash(error)


class BatchConsumer(driver.Consumer):
    """Tells its source when a generation begins and ends; Faust fetches and commits nothing itself."""

    RebalanceListener = RebalanceListener
    logger = FAUST_LOG

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._source = cast(BatchTransport, self.transport).source
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
        self._source.assign(generation_id, assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Do nothing: positions were set in the consumer's thread before the assignment was reported."""

    def stop_flow(self) -> None:
        self._source.close()
        super().stop_flow()

    def resume_flow(self) -> None:
        self._source.open()
        super().resume_flow()

    async def wait_empty(self) -> None:
        """Let the listener answer and commit what is in flight; at once where the consumer is stopping.

        At a rebalance it waits less long than the group waits for this worker: otherwise one slow request would get
        the worker removed, and its return would move partitions once more.
        """
        kafka = cast(BatchTransport, self.transport).kafka
        within_s = None if cast(InferenceApp, self.app).is_draining else kafka.answer_in_rebalance_s
        await self.wait(self._source.listener.drain(within_s))

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Do nothing: the listener commits."""
        return False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust would treat a paused partition, or a long request, as one that hangs."""

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch nothing: the listener does. Returns when Faust cancels it."""
        with suppress(asyncio.CancelledError):  # a crash to Faust while the group rebalances
            await asyncio.Event().wait()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with our consumer and producer."""

    Consumer = BatchConsumer
    Producer = PatientProducer

    def __init__(self, *args: Any, source: FaustSource, kafka: KafkaSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.source = source
        self.kafka = kafka
