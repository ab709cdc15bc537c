"""Builds the Faust app: its settings, and one thin agent per task that hands fetches to the source."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streams.faust.faust_internals import BatchTransport, InferenceApp
from streams.faust.port import FaustSource
from streams.kafka.topics import Topics
from streams.settings import KafkaSettings


def build_app(kafka: KafkaSettings, tasks: Iterable[str], source: FaustSource) -> InferenceApp:
    """Return an app that consumes the request topics of `tasks` for `source`.

    Only the source commits offsets: Faust sees no event that it could ack. docs/decisions/manual-in-order-acks.md
    explains the settings.
    """
    app = InferenceApp(
        kafka.group_id,
        processing_guarantee="at_least_once",
        # Faust's own tables, leader and topic creation stay off: they bring topics and an assignor we do not use.
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        # Drain before leaving or giving up a partition.
        stream_wait_empty=True,
        # One list of messages; the next is fetched while the agent works through the one before.
        stream_buffer_maxsize=1,
    )
    app.transport = BatchTransport(app.conf.broker_consumer, app, source=source, kafka=kafka)
    topics = Topics(kafka.topic_prefix)
    for task in tasks:
        _add_agent(app, task, topics.requests(task), source)
    return app


def _add_agent(app: InferenceApp, task: str, topic_name: str, source: FaustSource) -> None:
    topic = app.topic(topic_name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    async def agent(stream: Any) -> None:
        async for fetched in stream:
            source.take(topic_name, fetched)

    # Faust derives names from import paths; ours stay the same wherever the code moves.
    app.agent(topic, name=f"inference.{task}", concurrency=1)(agent)
