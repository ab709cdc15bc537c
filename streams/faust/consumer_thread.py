"""The thread of the aiokafka consumer: it alone owns positions, fetches and commits, and sees rebalances first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import aiokafka
from faust.transport.consumer import ensure_TPset
from faust.transport.drivers import aiokafka as driver

from handlers.logger import get_logger
from streams.delivery.offsets import Fetched, TopicPartition
from streams.faust.assigned_partitions import ConsumerClosing
from streams.faust.commits import CommittingThread
from streams.faust.fetched_records import deliver_as_received
from streams.faust.group_supervisor import Supervisor
from streams.faust.membership import Membership
from streams.faust.positions import PartitionReader
from streams.kafka.patient_connections import PatientConnections, client_of

log = get_logger(__name__)

_LEAVE_S = 1.5
"""How long a coordinator may take to let this worker go, in seconds; the group finds out by itself as well."""


class ConsumerThread(CommittingThread):
    """Owns the aiokafka consumer and the source of its records, on a separate event loop.

    It says why its group does not take it, and leaves the group in time.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = PartitionReader(self.app.conf.id)
        self.membership: Membership = cast(Any, self.transport).membership

    async def on_start(self) -> None:
        await super().on_start()
        consumer = self._ensure_consumer()
        deliver_as_received(consumer)
        PatientConnections(client_of(consumer))
        self._supervisor = Supervisor(consumer, self.membership)
        self._supervisor.attach()
        self.add_future(self._supervisor.watch())

    async def on_thread_stop(self) -> None:
        """Leave the group and close the consumer, as far as the brokers answer."""
        await self.source.stop()
        if self._consumer is not None and self._consumer._coordinator is not None:
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
            # aiokafka's fetcher may raise what it has cancelled itself; the connections are open still.
            if self._consumer is not None:
                await client_of(self._consumer).close()

    async def fetch(
        self,
        generation: int,
        partitions: Collection[TopicPartition],
        most: int,
        timeout_s: float,
        hand_over: Callable[[list[Fetched]], None],
    ) -> None:
        """Hand over what there is of `partitions`, or comes in time, if `generation` has not ended; in this thread.

        Raises:
            KafkaError: permanent.
            PositionLost: permanent.
            ConsumerClosing: the consumer is being stopped.
        """
        with self._ensure_consumer()._subscription.fetch_context():
            await self.source.deliver(generation, partitions, most, timeout_s, hand_over)

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        kafka = cast(Any, transport).kafka
        # Settings of ours; Faust hard-codes 1.5 s, and reads what is not committed. Its one limit for all requests
        # would have to be above the time of a join: a connection that is silent would hold a partition for minutes.
        client_of(consumer)._request_timeout_ms = int(kafka.request_timeout_s * 1000)
        consumer._fetch_max_wait_ms = kafka.fetch_max_wait_ms
        consumer._isolation_level = kafka.isolation_level
        self.source.attach(consumer)
        return consumer


class RebalanceListener(driver.ConsumerRebalanceListener):
    """Ends and begins generations where aiokafka's rebalance stands still, before Faust is told."""

    _thread: ConsumerThread

    async def on_partitions_revoked(self, revoked: Iterable[aiokafka.TopicPartition]) -> None:
        self._thread.source.close()
        async with _fatal_errors(self._thread):
            await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[aiokafka.TopicPartition]) -> None:
        """Set all positions, then tell Faust of the assignment under a number of our own.

        The broker's generation does not identify an assignment: it is -1 whenever the group has put the worker out.
        """
        thread = self._thread
        async with _fatal_errors(thread):
            generation = await thread.source.begin()
            thread.app.consumer_generation_id = generation
            await thread.on_partitions_assigned(ensure_TPset(assigned), generation)


@asynccontextmanager
async def _fatal_errors(thread: ConsumerThread) -> AsyncIterator[None]:
    """End the worker with what the body raises: aiokafka would log it and go on without a generation, for ever."""
    try:
        yield
    except ConsumerClosing:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker ends with it
        await thread.crash(error)
