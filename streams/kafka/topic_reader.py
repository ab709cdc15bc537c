"""Reads whole topics outside any consumer group: for clients, tools and tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Literal, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.kafka.aiokafka_internals import client_of, parse_fetches
from streams.kafka.connection import answered_within, broker_answering, is_passing
from streams.kafka.header_names import ForgivingRecords
from streams.kafka.patient_connections import PatientConnections
from streams.kafka.topics import TopicProblem, TopicsNotReady
from streams.settings import KafkaSettings

_POLL_MS = 200
_PAUSE_S = 0.5
_BEGIN_S = 60.0
_TOPIC_APPEARS_S = 5.0
"""How long the broker may not know a topic that was just made."""
_METADATA_MAX_AGE_S = 10.0
"""Longest time until an added partition is noticed."""


class TopicReader:
    """Reads every partition of the given topics, without a consumer group, from their start or their current end.

    Lives on one event loop. Nothing is committed, so any number of readers see every record. It waits for brokers
    that are away. Added partitions, and topics that were made again, are read from their start. Changes nothing
    outside its own consumer.
    """

    def __init__(
        self, kafka: KafkaSettings, topics: Iterable[str], *, start: Literal["beginning", "end"] = "end"
    ) -> None:
        self._kafka = kafka
        self._topics = tuple(topics)
        self._start = start

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            async with broker_answering(self._kafka) as options:
                self._consumer = consumer = AIOKafkaConsumer(
                    **options,
                    group_id=None,
                    enable_auto_commit=False,
                    # For offsets that are gone; the end is looked up only at the start.
                    auto_offset_reset="earliest",
                    fetch_max_wait_ms=self._kafka.fetch_max_wait_ms,
                    metadata_max_age_ms=int(1000 * min(_METADATA_MAX_AGE_S, self._kafka.metadata_max_age_s)),
                    isolation_level=self._kafka.isolation_level,
                )
                stack.push_async_callback(consumer.stop)
                await consumer.start()
            PatientConnections(client_of(consumer))
            parse_fetches(consumer, ForgivingRecords)
            if self._topics:
                # The leader of a partition may be frozen until the cluster has elected another.
                async with answered_within(self._kafka, _BEGIN_S):
                    await self._begin()
            stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def records(self) -> AsyncIterator[ConsumerRecord[bytes | None, bytes | None]]:
        """Yield records as they come, for ever; order holds within a partition.

        Raises:
            KafkaError: the broker refuses to let them be read.
        """
        while True:
            try:
                await self._take_in_added()
                fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
            except Exception as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(_PAUSE_S)
                continue
            for records in fetched.values():
                for record in records:
                    yield record

    async def _begin(self) -> None:
        """Assign all partitions, at their start or their current end."""
        client = client_of(self._consumer)
        until = asyncio.get_running_loop().time() + _TOPIC_APPEARS_S
        await client.set_topics(self._topics)
        while missing := [name for name in self._topics if not self._consumer.partitions_for_topic(name)]:
            refused = client.cluster.unauthorized_topics & set(missing)
            if refused or asyncio.get_running_loop().time() > until:
                user = self._kafka.sasl_username
                problems = {name: TopicProblem.missing(name) for name in missing}
                problems |= {name: TopicProblem.not_allowed(name, user) for name in refused}
                raise TopicsNotReady(list(problems.values()))
            await asyncio.sleep(_PAUSE_S)
            await client.force_metadata_update()
        partitions = self._known()
        self._consumer.assign(partitions)
        if self._start == "end":
            await self._consumer.seek_to_end(*partitions)
        # Offsets are looked up lazily; asking for them now fixes "the end".
        for partition in partitions:
            await self._consumer.position(partition)

    async def _take_in_added(self) -> None:
        """Assign added partitions, and leave the others where they are."""
        assigned = self._consumer.assignment()
        added = [partition for partition in self._known() if partition not in assigned]
        if not added:
            return
        positions = {partition: await self._consumer.position(partition) for partition in assigned}
        self._consumer.assign([*assigned, *added])
        for partition, position in positions.items():
            self._consumer.seek(partition, position)
        await self._consumer.seek_to_beginning(*added)

    def _known(self) -> list[TopicPartition]:
        return [
            TopicPartition(name, number)
            for name in self._topics
            for number in sorted(self._consumer.partitions_for_topic(name) or ())
        ]
