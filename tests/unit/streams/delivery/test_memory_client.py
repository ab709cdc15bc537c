"""The broker in memory keeps what the port promises; what Kafka does not promise may go wrong on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError

from streams.delivery.memory_broker import MemoryBroker
from streams.delivery.memory_client import MemorySink, MemorySource
from streams.delivery.port import RecordSource
from tests.contract.kafka_port import PARTITIONS, Member, PortContract, send


class MemorySite:
    """A broker with one topic."""

    topic = "inference.requests.asr"
    bounds_records = keeps_notes = True

    def __init__(self, session_s: float = 30.0) -> None:
        self.broker = MemoryBroker({self.topic: PARTITIONS}, session_s=session_s)
        self.sink = MemorySink(self.broker)

    def source(self) -> MemorySource:
        return MemorySource(self.broker, "group", [self.topic])

    @asynccontextmanager
    async def joined(self, source: RecordSource) -> AsyncIterator[None]:
        assert isinstance(source, MemorySource)
        await source.start()
        yield
        await source.stop()


class TestMemory(PortContract):
    """The contract on the broker in memory."""

    @pytest.fixture
    async def site(self) -> MemorySite:
        return MemorySite(session_s=0.6)  # a second member joins after a heartbeat of the first


async def test_what_a_log_leaves_out_lies_within_a_fetch_and_is_committed_with_it() -> None:
    site = MemorySite()
    await send(site, 0, [0])
    site.broker.logs[site.topic, 0].skip(3)
    await send(site, 0, [1])
    site.broker.logs[site.topic, 0].skip(1)
    member = Member(site)
    async with site.joined(member.source):
        await member.fetch_all(2)
        assert [record.offset for record in member.records] == [0, 4]
        await member.commit()
    assert site.broker.group("group").committed[site.topic, 0] == 6


async def test_a_member_that_is_not_heard_of_for_a_session_is_put_out_and_hears_it_when_it_commits() -> None:
    site = MemorySite(session_s=0.3)
    silent, other = Member(site), Member(site)
    await send(site, 0, range(2))

    async def beat_without_end(step: str) -> None:
        if step == "heartbeat":
            await asyncio.Event().wait()

    silent.source._on_request = beat_without_end  # type: ignore[attr-defined]
    async with site.joined(silent.source):
        await silent.owns(PARTITIONS)
        await silent.fetch_all(2)
        async with site.joined(other.source):
            async with asyncio.timeout(60):
                await other.owns(PARTITIONS)
                assert set((await silent.commit()).values()) != {0}
    assert site.broker.group("group").committed == {}


async def test_a_topic_that_is_not_there_is_told_to_who_sends() -> None:
    site = MemorySite()
    with pytest.raises(UnknownTopicOrPartitionError):
        await site.sink.partitions("other")
    count, error = await site.sink.send("other", 0, [])
    assert (count, type(error)) == (0, UnknownTopicOrPartitionError)
