"""Reads whole topics outside any consumer group: for clients, tools and tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Literal, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from streams.header_names import forgive_header_names
from streams.kafka import BrokerUnavailable, broker_answering, connection_options
from streams.settings import KafkaSettings

_POLL_MS = 200


class TopicReader:
    """Reads every partition of the given topics, in a group of its own, from their start or their present end.

    Lives on one event loop. Nothing is committed, so any number of readers see every record.
    """

    def __init__(
        self, kafka: KafkaSettings, topics: Iterable[str], *, start: Literal["beginning", "end"] = "end"
    ) -> None:
        self._kafka = kafka
        self._topics = tuple(topics)
        self._start = start

    async def __aenter__(self) -> Self:
        forgive_header_names()
        self._consumer = AIOKafkaConsumer(
            *self._topics,
            **connection_options(self._kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest" if self._start == "beginning" else "latest",
            fetch_max_wait_ms=self._kafka.fetch_max_wait_ms,
        )
        try:
            async with broker_answering(self._kafka):
                await self._consumer.start()
                # Offsets are looked up lazily; asking for them makes "the end" that of this moment.
                for partition in self._consumer.assignment():
                    await self._consumer.position(partition)
        except BrokerUnavailable:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def records(self) -> AsyncIterator[ConsumerRecord[bytes | None, bytes | None]]:
        """Yield records as they come, for ever; order holds within a partition."""
        while True:
            for records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    yield record
