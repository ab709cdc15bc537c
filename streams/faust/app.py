"""The Faust app: its settings, and one thin agent per task that hands what is fetched to the source."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import faust
from aiokafka import AIOKafkaProducer
from faust.types import TP

from streams.faust.consumer import BatchTransport
from streams.faust.membership import Membership
from streams.faust.source import FaustSource
from streams.kafka.connection import faust_credentials
from streams.kafka.topics import Topics
from streams.repeated_lines import FAUST_LOG
from streams.settings import Settings

_NEVER_LEAVE_FOR_BEING_BUSY_S = 86_400.0
_LARGEST_BATCH_BYTES = 256 * 1024


class InferenceApp(faust.App):
    """Faust with our consumer, and without the folders it keeps for tables, of which we have none."""

    logger = FAUST_LOG
    _is_draining = False
    _is_drained = False

    def kafka_producer(self) -> AIOKafkaProducer:
        """Return the started producer that Faust sends with."""
        return cast(Any, self.producer)._ensure_producer()

    async def drain(self) -> None:
        """Take nothing more, and return once all that was taken is answered and committed, as far as it can be."""
        self._is_draining = True
        await self._stop_consumer()
        self._is_drained = True

    async def _stop_consumer(self) -> None:
        if not self._is_drained:
            await super()._stop_consumer()

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        if not self._is_draining:
            await super()._on_partitions_assigned(assigned, generation_id)

    async def _producer_flush(self, logger: Any) -> None:
        """Faust waits for its producer's buffer here, without end; what is sent by ours is awaited one by one."""

    def _on_rebalance_when_stopped(self) -> None:
        """Faust closes the consumer here, on another loop than its own; it is being stopped already."""

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:
        """Return a queue that keeps what lies in it: what is of an older generation is dropped behind the agent.

        Faust empties queues when a rebalance begins, and whenever the flow goes on, which can come late.
        """
        return super().FlowControlQueue(maxsize, clear_on_resume=False)

    def _create_directories(self) -> None:
        pass


def build_app(
    settings: Settings, tasks: Iterable[str], source: FaustSource, membership: Membership
) -> InferenceApp:
    """Return an app that consumes the request topics of `tasks` for `source`.

    Offsets are committed by the source, and no other way: Faust sees no event that it could ack. The values are set
    out in docs/decisions/manual-in-order-acks.md.
    """
    kafka = settings.kafka
    servers = kafka.bootstrap_servers.split(",")
    app = InferenceApp(
        kafka.group_id,
        broker=[f"kafka://{server.strip()}" for server in servers],
        broker_credentials=faust_credentials(kafka),
        consumer_group_instance_id=kafka.group_instance_id,
        # Positions are set by streams/faust/positions.py alone; a reset of aiokafka's own would pass it by.
        consumer_auto_offset_reset="none",
        consumer_metadata_max_age_ms=int(kafka.metadata_max_age_s * 1000),
        processing_guarantee="at_least_once",
        # Faust's own tables, leader and topic creation stay off: they bring topics and an assignor we do not use.
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        # Drain before leaving or giving up a partition.
        stream_wait_empty=True,
        broker_max_poll_records=kafka.max_poll_records,
        # One list of messages; the next is fetched while the agent works through the one before.
        stream_buffer_maxsize=1,
        # A worker that is busy longer than this leaves the group and, in Faust 0.15.3, never comes back.
        broker_max_poll_interval=_NEVER_LEAVE_FOR_BEING_BUSY_S,
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.heartbeat_interval_s,
        broker_rebalance_timeout=kafka.rebalance_timeout_s,
        # Faust wants it above that of a session; streams/faust/consumer_thread.py sets what counts.
        broker_request_timeout=kafka.session_timeout_s + kafka.request_timeout_s,
        stream_processing_timeout=900.0,
        broker_commit_livelock_soft_timeout=900.0,
        producer_acks=-1,
        producer_max_request_size=kafka.max_message_bytes,
        producer_max_batch_size=min(_LARGEST_BATCH_BYTES, kafka.max_message_bytes),
        producer_request_timeout=kafka.producer_timeout_s,
    )
    app.transport = BatchTransport(
        app.conf.broker_consumer, app, source=source, kafka=kafka, membership=membership
    )
    topics = Topics(kafka.topic_prefix)
    for task in tasks:
        _add_agent(app, task, topics.requests(task), source)
    return app


def _add_agent(app: InferenceApp, task: str, topic_name: str, source: FaustSource) -> None:
    topic = app.topic(
        topic_name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    async def agent(stream: Any) -> None:
        async for fetched in stream:
            source.take(topic_name, fetched)

    # Faust derives names from import paths; ours stay the same wherever the code moves.
    app.agent(topic, name=f"inference.{task}", concurrency=1)(agent)
