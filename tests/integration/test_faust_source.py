"""Faust's consumer and aiokafka's producer keep what the port to Kafka promises, with delays between their steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from deploy.local import KafkaRelease, LocalStack
from streams.delivery.port import RecordSource
from streams.faust.app import build_app
from streams.faust.membership import Membership
from streams.faust.port import FaustSource, ProducerSink
from streams.kafka.connection import connection_options
from tests.contract import kafka_port as contract
from tests.integration.worker_process import Site
from tests.plugins import slow_steps

SOON = {"session_timeout_s": 12.0, "heartbeat_interval_s": 1.0}
"""Members hear of a rebalance with their next heartbeat."""


class FaustSite:
    """Topics of its own on the local stack; each member is a Faust app with a consumer's thread."""

    bounds_records: bool
    keeps_notes: bool

    def __init__(self, site: Site, producer: AIOKafkaProducer) -> None:
        self._settings = site.settings
        self.topic = site.topics.requests("asr")
        self.sink = ProducerSink(lambda: producer)
        self.fatal: list[BaseException] = []

    def source(self) -> FaustSource:
        return FaustSource(Membership(self._settings.kafka, [self.topic], self.fatal.append))

    @asynccontextmanager
    async def joined(self, source: RecordSource) -> AsyncIterator[None]:
        assert isinstance(source, FaustSource)
        app = build_app(self._settings.kafka, ["asr"], source)
        await app.start()
        try:
            yield
        finally:
            await app.drain()
            await app.stop()


class TestFaust(contract.PortContract):
    """The contract on Kafka."""

    @pytest.fixture
    async def site(
        self,
        local_stack: LocalStack,
        kafka_release: KafkaRelease | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> AsyncIterator[FaustSite]:
        slow_steps.install(monkeypatch.setattr, seed=0)
        site = Site(tmp_path, local_stack.settings(), kafka=SOON)
        await site.create_topics(["asr"])
        async with AIOKafkaProducer(**connection_options(site.settings.kafka), acks="all") as producer:
            made = FaustSite(site, producer)
            made.bounds_records = made.keeps_notes = kafka_release is not None
            yield made
            assert made.fatal == []
