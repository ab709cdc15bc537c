"""The source of records where logs change under it, and where a batch cannot be read."""

from __future__ import annotations

import asyncio
import functools
import inspect
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.record.default_records import DefaultRecordBase

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched
from streams.faust.positions import PartitionReader
from streams.settings import KafkaSettings
from tests.unit.streams.fake_brokers import Brokers, consumer_of
from tests.unit.streams.kafka.test_header_names import sealed
from tests.unit.streams.received_messages import offsets_due, track
from tests.unit.streams.virtual_time import virtual_time

TOPIC = "requests"
PLACE, OTHER = (TOPIC, 0), (TOPIC, 1)
LOADING = 14
NOT_ALLOWED = 30
TOPIC_NOT_ALLOWED = 29


class Rig:
    """A source with one generation over two partitions."""

    def __init__(self) -> None:
        async def no_pause(_: str) -> None: ...

        self.brokers = Brokers({TOPIC: 2}, no_pause)
        self.log = self.brokers.logs[PLACE]
        self.source = PartitionReader(KafkaSettings(group_id="group"))
        self.tracker = OffsetTracker()

    async def assign(self) -> None:
        self.consumer = consumer_of(self.brokers)
        await self.consumer.start()
        self.source.attach(self.consumer)
        self.consumer.subscribe([TOPIC])
        while self.consumer._subscription.reassignment_in_progress:
            await asyncio.sleep(0.01)
        self.generation = await self.source.begin()

    def topic_id(self) -> str | None:
        """Return what is noted with commits."""
        assert self.source._assignment is not None
        return self.source._assignment.topic_ids.get(TOPIC)

    async def next(self, *, timeout_s: float = 5.0) -> list[Fetched]:
        """Return what comes next, nothing where nothing does."""
        fetched: list[Fetched] = []
        await self.source.deliver(self.generation, {PLACE, OTHER}, 100, timeout_s, fetched.extend)
        for one in fetched:
            track(self.tracker, one)
            for record in one.records:
                self.tracker.done(record)
        return fetched

    async def offsets(self) -> list[int]:
        """Return the offsets of the next records that come."""
        while fetched := await self.next():
            if offsets := [record.offset for one in fetched for record in one.records]:
                return offsets
        return []

    async def close(self) -> None:
        await self.source.stop()
        await self.consumer.stop()


def with_rig(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test with a rig, in virtual time."""

    @functools.wraps(test)
    def run(**parameters: Any) -> None:
        async def in_loop() -> None:
            rig = Rig()
            try:
                await test(rig, **parameters)
            finally:
                await rig.close()

        with virtual_time() as loop:
            loop.run_until_complete(in_loop())

    signature = inspect.signature(test)
    wanted = [one for name, one in signature.parameters.items() if name != "rig"]
    run.__signature__ = signature.replace(parameters=wanted)  # type: ignore[attr-defined]
    return run


@with_rig
async def test_a_group_that_has_nothing_reads_from_the_start_of_the_log(rig: Rig) -> None:
    rig.log.append(3)
    rig.log.append(2)
    rig.log.cut_before(3)
    await rig.assign()
    assert await rig.offsets() == [3, 4]
    assert rig.source.removed_unread == {}  # nobody knows that it was there


@with_rig
async def test_it_goes_on_at_what_the_group_has_zero_included(rig: Rig) -> None:
    rig.log.append(5)
    rig.brokers.logs[OTHER].append(2)
    rig.brokers.committed = {PLACE: 3, OTHER: 0}
    await rig.assign()
    assert sorted(await rig.offsets()) == [0, 1, 3, 4]


@with_rig
async def test_a_coordinator_that_loads_is_not_one_that_has_nothing(rig: Rig) -> None:
    """aiokafka's own way reads an error for all partitions as no offset for any."""
    rig.log.append(5)
    rig.brokers.committed = {PLACE: 3}
    rig.brokers.refuse["fetch_offsets"] = [LOADING] * 20
    await rig.assign()
    assert await rig.offsets() == [3, 4]


@with_rig
async def test_a_group_that_may_not_be_read_is_an_error(rig: Rig) -> None:
    await rig.assign()
    rig.brokers.refuse["fetch_offsets"] = [NOT_ALLOWED] * 20
    with pytest.raises(GroupAuthorizationFailedError):
        await rig.source.begin()


@with_rig
async def test_a_topic_that_may_not_be_read_is_one_error_however_many_partitions_it_has(rig: Rig) -> None:
    await rig.assign()
    rig.brokers.refuse_fetches = TOPIC_NOT_ALLOWED
    buffered = rig.consumer._fetcher._records
    while len(buffered) < 2:
        await asyncio.sleep(0.01)
    with pytest.raises(TopicAuthorizationFailedError):
        await rig.next()
    rig.brokers.refuse_fetches = 0  # the right is granted again
    rig.log.append(3)
    assert await rig.offsets() == [0, 1, 2]


@with_rig
async def test_a_log_that_was_made_again_is_read_from_its_start_and_committed_downwards(rig: Rig) -> None:
    rig.log.append(20)
    await rig.assign()
    assert await rig.offsets() == list(range(20))
    assert offsets_due(rig.tracker) == {PLACE: 20}
    old = rig.source.epochs([PLACE])
    rig.log = rig.brokers.logs[PLACE] = type(rig.log)()
    rig.log.append(10)
    assert [(one.begins, one.start, one.end) for one in await rig.next()] == [(True, 0, 0)]
    assert rig.source.epochs([PLACE]) != old  # so nothing of the old log is committed any more
    assert offsets_due(rig.tracker) == {PLACE: 0}
    assert await rig.offsets() == list(range(10))


@with_rig
async def test_a_committed_offset_above_the_end_is_replaced_though_nothing_comes(rig: Rig) -> None:
    rig.log.append(2)
    rig.log.cut_before(2)
    rig.brokers.committed = {PLACE: 456}
    await rig.assign()
    await rig.next()
    assert offsets_due(rig.tracker) == {PLACE: 2}


@with_rig
async def test_records_that_retention_removes_unread_are_counted_and_crossed(rig: Rig) -> None:
    rig.brokers.committed = {PLACE: 0}
    for _ in range(3):
        rig.log.append(10)
    rig.log.cut_before(20)
    await rig.assign()
    assert [(one.begins, one.start, one.end) for one in await rig.next()] == [(True, 0, 20)]
    assert offsets_due(rig.tracker) == {PLACE: 20}
    assert await rig.offsets() == list(range(20, 30))
    assert rig.source.removed_unread == {PLACE: 20}


def with_wrong_checksum(made: bytes) -> bytes:
    return made[:-1] + bytes([made[-1] ^ 1])


def with_unknown_codec(made: bytes) -> bytes:
    changed = bytearray(made)
    changed[DefaultRecordBase.ATTRIBUTES_OFFSET + 1] |= 5
    return sealed(changed)


def with_unknown_format(made: bytes) -> bytes:
    return made[:16] + b"\x09" + made[17:]


def with_negative_format(made: bytes) -> bytes:
    return made[:16] + b"\xff" + made[17:]


def with_negative_length(made: bytes) -> bytes:
    return made[:8] + struct.pack(">i", -5) + made[12:]


def with_huge_length(made: bytes) -> bytes:
    return made[:8] + struct.pack(">i", 2**30) + made[12:]


def with_garbage_in_its_records(made: bytes) -> bytes:
    changed = bytearray(made)
    changed[DefaultRecordBase.HEADER_STRUCT.size] += 2  # the first record's length
    return sealed(changed)


def with_headers_beyond_its_end(made: bytes) -> bytes:
    changed = bytearray(made)
    at = changed.find(b"\x02\x08name")  # one header, of four bytes
    changed[at] = 0x7E
    return sealed(changed)


DAMAGES = (
    with_wrong_checksum,
    with_unknown_codec,
    with_unknown_format,
    with_negative_format,
    with_negative_length,
    with_huge_length,
    with_garbage_in_its_records,
    with_headers_beyond_its_end,
)


@pytest.mark.parametrize("damage", DAMAGES)
@with_rig
@pytest.mark.logs_errors("partition_stopped")
async def test_what_is_before_a_damaged_batch_is_delivered_its_partition_stops_and_others_go_on(
    rig: Rig, damage: Callable[[bytes], bytes]
) -> None:
    rig.log.append(3)
    rig.log.append(2, damage=damage)
    rig.log.append(1)
    await rig.assign()
    assert await rig.offsets() == [0, 1, 2]
    assert offsets_due(rig.tracker) == {PLACE: 3}
    for _ in range(5):
        assert await rig.next(timeout_s=1.0) == []
    [(place, why)] = rig.source.stopped.items()
    assert place == PLACE
    assert f"offset 3 of topic {TOPIC} partition 0" in why
    assert f"--topic {TOPIC}:0 --reset-offsets --to-offset" in why
    rig.brokers.logs[OTHER].append(2)
    assert await rig.offsets() == [0, 1]
    assert offsets_due(rig.tracker)[PLACE] == 3


@with_rig
@pytest.mark.logs_errors("partition_stopped")
async def test_the_way_past_a_damaged_batch_names_the_offset_behind_it(rig: Rig) -> None:
    rig.log.append(3, damage=with_wrong_checksum)
    rig.log.append(1)
    await rig.assign()
    await rig.next(timeout_s=2.0)
    assert "--to-offset 3 --execute" in rig.source.stopped[PLACE]


@with_rig
async def test_a_batch_that_is_whole_when_it_is_fetched_again_stops_nothing(rig: Rig) -> None:
    times = 0
    rig.log.append(2, damage=with_wrong_checksum)
    whole = type(rig.log)()
    whole.append(2)
    read = rig.log.read

    def read_again(offset: int) -> bytes:
        nonlocal times
        times += 1
        return read(offset) if times == 1 else whole.read(offset)

    rig.log.read = read_again  # type: ignore[method-assign]
    await rig.assign()
    assert await rig.offsets() == [0, 1]
    assert rig.source.stopped == {}


@with_rig
async def test_nothing_is_taken_for_another_generation_or_while_a_rebalance_runs(rig: Rig) -> None:
    rig.log.append(2)
    await rig.assign()
    generation, rig.generation = rig.generation, rig.generation + 100
    assert await rig.next(timeout_s=1.0) == []
    rig.generation = generation
    rig.source.close()
    assert await rig.next(timeout_s=1.0) == []
    rig.generation = await rig.source.begin()
    assert await rig.offsets() == [0, 1]


@with_rig
async def test_a_topic_made_again_that_is_longer_than_before_is_noticed_by_its_id(rig: Rig) -> None:
    rig.brokers.topic_ids[TOPIC] = 1
    rig.log.append(3)
    await rig.assign()
    assert await rig.offsets() == [0, 1, 2]
    old = rig.source.epochs([PLACE])
    rig.log = rig.brokers.logs[PLACE] = type(rig.log)()
    rig.log.append(10)
    rig.brokers.topic_ids[TOPIC] = 2
    for listener in rig.consumer._client.listeners:
        listener(None)
    await asyncio.sleep(1.0)
    assert rig.source.epochs([PLACE]) != old
    begun = [one for one in await rig.next() if one.place == PLACE]
    assert [(one.begins, one.start, len(one.records)) for one in begun] == [(True, 0, 0), (False, 0, 10)]
    assert offsets_due(rig.tracker)[PLACE] == 10


@with_rig
async def test_an_offset_that_was_committed_for_a_topic_of_that_name_before_is_not_gone_on_at(
    rig: Rig,
) -> None:
    rig.brokers.topic_ids[TOPIC] = 2
    rig.log.append(10)
    rig.brokers.committed = {PLACE: 5}
    rig.brokers.notes = {PLACE: f"{1:032x}"}
    await rig.assign()
    assert rig.topic_id() == f"{2:032x}"
    assert await rig.offsets() == list(range(10))
    assert offsets_due(rig.tracker) == {PLACE: 10}


@with_rig
async def test_what_was_noted_is_compared_as_soon_as_a_broker_tells_ids(rig: Rig) -> None:
    rig.brokers.topic_ids[TOPIC] = 2
    rig.brokers.is_silent_about_ids = True  # a node that is frozen
    rig.log.append(10)
    rig.brokers.committed = {PLACE: 5}
    rig.brokers.notes = {PLACE: f"{1:032x}"}
    await rig.assign()
    assert rig.topic_id() == f"{1:032x}"
    assert await rig.offsets() == list(range(5, 10))
    rig.brokers.is_silent_about_ids = False
    for listener in rig.consumer._client.listeners:
        listener(None)
    assert await rig.offsets() == list(range(10))
    assert rig.topic_id() == f"{2:032x}"
