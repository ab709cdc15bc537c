"""What every implementation of the port to Kafka promises; each has a subclass that runs these tests on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
from aiokafka import errors

from streams.delivery.port import (
    Fetched,
    Position,
    ProducerRecord,
    Record,
    RecordSink,
    RecordSource,
    TopicPartition,
)

PATIENCE_S = 240.0
"""Longest wait for anything that must happen; reached only when a test is about to fail."""
PARTITIONS = 2


class Site(Protocol):
    """A topic of `PARTITIONS` partitions that nobody else uses, and a group."""

    topic: str
    bounds_records: bool
    keeps_notes: bool
    """Whether the broker keeps what is committed beside an offset; the embedded one does not."""

    @property
    def sink(self) -> RecordSink: ...

    def source(self) -> RecordSource:
        """Return a new member's source, which has not joined yet."""

    def joined(self, source: RecordSource) -> AbstractAsyncContextManager[None]:
        """Have `source`, to which a listener is attached, be a member meanwhile; on the way out it leaves."""


class Member:
    """A listener that notes what it hears, and does what delivery does with it."""

    def __init__(self, site: Site) -> None:
        self.topic = site.topic
        self.source = site.source()
        self.source.attach(self)
        self.taken: list[Fetched] = []
        self.heard: list[str] = []
        self.before_it_goes: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)

    def take(self, topic: str, fetched: Sequence[Fetched]) -> None:
        assert topic == self.topic
        self.taken += fetched

    def begin(self, assigned: Collection[TopicPartition]) -> None:
        self.heard.append("begin")

    async def drain(self, within_s: float | None = None) -> None:
        self.heard.append("drain")
        await self.before_it_goes()

    @property
    def records(self) -> list[Record]:
        return [record for one in self.taken for record in one.records]

    async def owns(self, count: int) -> int:
        """Return the open generation as soon as this member has so many partitions in it."""
        while True:
            generation = await self.source.opened()
            if len(self.source.partitions(self.topic)) == count:
                return generation
            await asyncio.sleep(0.01)

    async def fetch(
        self, partitions: set[TopicPartition] | None = None, most: int = 100, timeout_s: float = 0.2
    ) -> None:
        """Fetch once of these partitions, all that are assigned where none are named."""
        generation = await self.source.opened()
        wanted = partitions or set(self.source.partitions(self.topic))
        await self.source.fetch(generation, self.topic, wanted, most, timeout_s)

    async def fetch_all(self, count: int) -> None:
        """Fetch until so many records were taken."""
        while len(self.records) < count:
            await self.fetch()

    async def commit(self, note: str = "") -> dict[TopicPartition, int]:
        """Commit all that was taken; return the codes."""
        ends = {one.place: Position(one.end, one.epoch, note) for one in self.taken}
        return dict(await self.source.commit(ends))


class PortContract:
    """The promises. A subclass has a fixture `site`."""

    @pytest.fixture(autouse=True)
    async def in_time(self) -> AsyncIterator[None]:
        async with asyncio.timeout(PATIENCE_S):
            yield

    async def test_each_partition_is_taken_in_order_without_holes_from_its_start_on(self, site: Site) -> None:
        await send(site, 0, range(7))
        await send(site, 1, range(5))
        member = Member(site)
        async with site.joined(member.source):
            await member.fetch_all(12)
            for number, count in ((0, 7), (1, 5)):
                fetched = [one for one in member.taken if one.partition == number]
                assert [int(record.value or b"") for one in fetched for record in one.records] == [*range(count)]
                assert [one.start for one in fetched] == [0, *(one.end for one in fetched[:-1])]
                assert [one.begins for one in fetched] == [True] + [False] * (len(fetched) - 1)
            assert {one.generation for one in member.taken} == {member.source.generation}

    async def test_no_more_are_taken_than_are_asked_for(self, site: Site) -> None:
        await send(site, 0, range(7))
        member = Member(site)
        async with site.joined(member.source):
            await member.owns(PARTITIONS)
            while not member.records:
                await member.fetch(most=3)
            assert [record.offset for record in member.records] == [0, 1, 2]

    async def test_a_partition_that_is_not_named_waits_until_it_is(self, site: Site) -> None:
        await send(site, 0, range(3))
        await send(site, 1, range(3))
        member = Member(site)
        async with site.joined(member.source):
            await member.owns(PARTITIONS)
            while len(member.records) < 3:
                await member.fetch({(site.topic, 1)})
            assert {record.partition for record in member.records} == {1}
            await member.fetch_all(6)

    async def test_the_next_member_begins_where_the_one_before_has_committed(self, site: Site) -> None:
        await send(site, 0, range(4))
        await send(site, 1, range(4))
        first, second = Member(site), Member(site)
        async with site.joined(first.source):
            await first.fetch_all(8)
            assert await first.commit("a note") == {(site.topic, number): 0 for number in range(PARTITIONS)}
        await send(site, 0, range(4, 6))
        async with site.joined(second.source):
            await second.fetch_all(2)
            assert [int(record.value or b"") for record in second.records] == [4, 5]
            note = "a note" if site.keeps_notes else ""
            assert {(one.committed, one.note) for one in second.taken} == {(4, note)}

    async def test_partitions_go_only_after_the_drain_whose_commits_count(self, site: Site) -> None:
        await send(site, 0, range(4))
        await send(site, 1, range(4))
        first, second = Member(site), Member(site)
        first.before_it_goes = first.commit
        async with site.joined(first.source):
            await first.fetch_all(8)
            before = first.source.generation
            async with site.joined(second.source):
                await asyncio.gather(first.owns(1), second.owns(1))
                assert first.source.generation != before
                assert first.heard[:3] == ["begin", "drain", "begin"]
                await send(site, 0, [4])
                await send(site, 1, [4])
                while len(second.records) + len(first.records) < 10:
                    await asyncio.gather(first.fetch(), second.fetch())
                later = first.records[8:] + second.records
                assert sorted((record.partition, record.offset) for record in later) == [(0, 4), (1, 4)]

    async def test_what_was_taken_and_not_committed_is_taken_again_after_a_rebalance(self, site: Site) -> None:
        await send(site, 0, range(4))
        await send(site, 1, range(4))
        first, second = Member(site), Member(site)
        async with site.joined(first.source):
            await first.fetch_all(8)
            async with site.joined(second.source):
                await asyncio.gather(first.owns(1), second.owns(1))
                while len(second.records) + len(first.records) < 16:
                    await asyncio.gather(first.fetch(), second.fetch())
                again = first.records[8:] + second.records
                assert sorted((record.partition, record.offset) for record in again) == [
                    (number, offset) for number in range(PARTITIONS) for offset in range(4)
                ]

    async def test_nothing_is_taken_and_nothing_committed_for_a_generation_that_has_ended(self, site: Site) -> None:
        await send(site, 0, range(4))
        first, second = Member(site), Member(site)
        async with site.joined(first.source):
            ended = await first.owns(PARTITIONS)
            await first.fetch_all(4)
            async with site.joined(second.source):
                await asyncio.gather(first.owns(1), second.owns(1))
                taken = len(first.taken)
                await first.source.fetch(ended, site.topic, {(site.topic, 0), (site.topic, 1)}, 10, 0.1)
                assert len(first.taken) == taken
                assert await first.commit() == {}

    async def test_records_are_on_the_broker_once_they_are_sent(self, site: Site) -> None:
        assert await site.sink.partitions(site.topic) == [*range(PARTITIONS)]
        record = ProducerRecord(site.topic, b"k", b"v", [("a", b"1")])
        assert await site.sink.send(site.topic, 0, [record, record]) == (2, None)
        member = Member(site)
        async with site.joined(member.source):
            await member.fetch_all(2)
            seen = [(one.partition, one.key, one.value, list(one.headers)) for one in member.records]
            assert seen == [(0, b"k", b"v", [("a", b"1")])] * 2

    async def test_a_record_that_is_too_large_for_the_broker_is_refused(self, site: Site) -> None:
        if not site.bounds_records:
            pytest.skip("the embedded broker takes records of any size")
        large = ProducerRecord(site.topic, b"k", b"v" * 5_000_000, [])
        count, error = await site.sink.send(site.topic, 1, [large])
        assert (count, type(error)) == (1, errors.MessageSizeTooLargeError)


async def send(site: Site, partition: int, numbers: Sequence[int]) -> None:
    """Send records that hold these numbers."""
    records = [ProducerRecord(site.topic, None, b"%d" % number, []) for number in numbers]
    assert await site.sink.send(site.topic, partition, records) == (len(records), None)
