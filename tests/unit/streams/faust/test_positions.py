"""The source of records where its group has no offset, and where logs change under it."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from tests.unit.streams.faust.positions_rig import OTHER, PLACE, TOPIC, Rig, with_rig
from tests.unit.streams.received_messages import offsets_due

LOADING = 14
NOT_ALLOWED = 30
TOPIC_NOT_ALLOWED = 29


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
    old = rig.epoch()
    rig.log = rig.brokers.logs[PLACE] = type(rig.log)()
    rig.log.append(10)
    assert [(one.begins, one.start, one.end) for one in await rig.next()] == [(True, 0, 0)]
    assert rig.epoch() != old  # so nothing of the old log is committed any more
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
    old = rig.epoch()
    rig.log = rig.brokers.logs[PLACE] = type(rig.log)()
    rig.log.append(10)
    rig.brokers.topic_ids[TOPIC] = 2
    for listener in rig.consumer._client.listeners:
        listener(None)
    await asyncio.sleep(1.0)
    assert rig.epoch() != old
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


@with_rig
async def test_nothing_is_looked_up_once_the_source_has_stopped(rig: Rig) -> None:
    """A rebalance may end between the stop of the source and that of its consumer."""
    await rig.assign()
    await rig.source.stop()
    before = asyncio.all_tasks()
    await rig.source.begin()
    assert [task.get_name() for task in asyncio.all_tasks() - before] == []
