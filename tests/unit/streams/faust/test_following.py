"""Our consumer on Faust's: what is delivered, when, and of which generation."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiokafka import errors
from faust.types import TP

from streams.delivery.port import PositionLost
from streams.kafka.aiokafka_internals import ConsumerClosing
from streams.settings import KafkaSettings
from tests.unit.streams.faust.consumer_rig import PARTITION, Rig, turns
from tests.unit.streams.received_messages import TOPIC, message, track


@pytest.mark.logs_errors("request_topic_unreadable")
async def test_a_topic_that_may_not_be_read_any_more_is_told_and_read_again_when_it_may(rig: Rig) -> None:
    membership = rig.membership
    rig.reader.answers.append(errors.TopicAuthorizationFailedError(TOPIC))
    async with asyncio.timeout(60):
        while not membership.unreadable:
            await asyncio.sleep(0)
        rig.reader.answers.append(rig.fetched(5, 2))
        assert [one.offset for fetched in await rig.queue.get() for one in fetched.records] == [5, 6]
        while membership.unreadable:
            await asyncio.sleep(0)


async def test_what_a_fetch_brings_arrives_in_one_list(rig: Rig) -> None:
    other = rig.fetched(1, 1, partition=1)
    rig.reader.answers.append(rig.fetched(5, 2) + other)
    async with asyncio.timeout(10):
        arrived = await rig.queue.get()
    assert [[one.offset for one in fetched.records] for fetched in arrived] == [[5, 6], [1]]
    assert (rig.reader.asked[0], rig.reader.generations[0]) == ({PARTITION}, 1)


async def test_the_next_fetch_waits_until_the_list_was_taken(rig: Rig) -> None:
    rig.reader.answers += [rig.fetched(0, 2), rig.fetched(2, 2)]
    assert await rig.offsets() == [0, 1]
    await turns()
    assert len(rig.reader.asked) == 1
    rig.take()
    assert await rig.offsets() == [2, 3]


async def test_a_partition_that_is_held_back_is_left_out_of_fetches_which_end_soon_until_it_is_released(
    rig: Rig,
) -> None:
    other = TP(TOPIC, 1)
    rig.consumer._active_partitions = {PARTITION, other}
    await rig.asked()
    rig.tracker.held_back.add((TOPIC, 0))
    rig.reader.answers += [[], []]
    while len(rig.reader.asked) < 3:
        await asyncio.sleep(0)
    rig.tracker.release((TOPIC, 0))
    rig.reader.answers.append(rig.fetched(5, 1))
    assert await rig.offsets() == [5]
    rig.take()
    while len(rig.reader.asked) < 4:
        await asyncio.sleep(0)
    assert rig.reader.asked[1:] == [{other}, {other}, {PARTITION, other}]
    assert rig.reader.timeouts[1] == rig.reader.timeouts[2] < rig.reader.timeouts[3]


async def test_a_topic_of_which_all_partitions_are_held_back_is_fetched_again_at_the_first_release(
    rig: Rig,
) -> None:
    await rig.asked()
    rig.tracker.held_back.add(PARTITION)
    rig.reader.answers.append([])
    await turns()
    assert (rig.reader.answers, len(rig.reader.asked)) == ([], 1)
    rig.tracker.release(PARTITION)
    rig.reader.answers.append(rig.fetched(0, 2))
    assert await rig.offsets() == [0, 1]


async def test_nothing_is_fetched_between_two_generations_and_the_topic_is_followed_in_the_next(
    rig: Rig,
) -> None:
    await rig.asked()
    rig.consumer.stop_flow()
    rig.reader.answers.append([])
    await turns()
    assert (len(rig.reader.asked), rig.is_current(1)) == (1, False)
    rig.open(2)
    rig.reader.answers.append(rig.fetched(0, 3, generation=2))
    assert await rig.offsets() == [0, 1, 2]
    assert rig.reader.generations == [1, 2]
    assert rig.is_current(2)


async def test_the_flow_that_goes_on_while_a_rebalance_runs_opens_nothing(rig: Rig) -> None:
    """Faust resumes late: after it has heard of the next rebalance, or twice for one assignment."""
    await rig.asked()
    rig.consumer.stop_flow()
    rig.consumer.resume_flow()
    rig.reader.answers.append([])
    await turns()
    assert (len(rig.reader.asked), rig.is_current(1)) == (1, False)


async def test_a_slow_request_does_not_put_its_worker_out_of_a_group_that_rebalances(rig: Rig) -> None:
    track(rig.tracker, rig.fetches.of([message(0)]))
    rig.consumer.transport.kafka = KafkaSettings(rebalance_timeout_s=1.0)
    async with asyncio.timeout(60):
        await rig.consumer.wait_empty()
    assert rig.tracker.in_flight == 1


@pytest.mark.waits
async def test_a_worker_that_stops_waits_for_slow_requests_longer_than_its_group(rig: Rig) -> None:
    track(rig.tracker, rig.fetches.of([message(0)]))
    rig.app.is_draining = True
    rig.consumer.transport.kafka = KafkaSettings(rebalance_timeout_s=1.0)
    waiting = asyncio.create_task(rig.consumer.wait_empty())
    await asyncio.wait([waiting], timeout=1.5)
    assert not waiting.done()
    waiting.cancel()


async def test_what_lies_in_the_queue_outlives_a_flow_that_goes_on_twice(rig: Rig) -> None:
    rig.reader.answers.append(rig.fetched(0, 2))
    while not rig.queue.full():
        await asyncio.sleep(0)
    rig.app.flow_control.resume()
    rig.consumer.resume_flow()
    assert rig.is_current(1)
    assert await rig.offsets() == [0, 1]


async def test_what_an_older_generation_left_in_the_queue_is_taken_first(rig: Rig) -> None:
    rig.reader.answers.append(rig.fetched(0, 2))
    while not rig.queue.full():
        await asyncio.sleep(0)
    rig.app.flow_control.suspend()
    rig.app.flow_control.clear()
    rig.consumer.stop_flow()
    rig.open(2)
    await turns()
    assert len(rig.reader.asked) == 1
    async with asyncio.timeout(10):
        [left] = await rig.queue.get()
    assert not rig.is_current(left.generation)
    rig.take()
    rig.reader.answers.append(rig.fetched(0, 2, generation=2))
    assert await rig.offsets() == [0, 1]


async def test_a_fetch_that_is_cancelled_is_delivered_all_the_same(rig: Rig) -> None:
    """Its records were taken, and are not fetched again in this generation."""
    [one] = rig.fetched(0, 2)

    async def fetch(*arguments: Any) -> None:
        arguments[-1]([one])
        await asyncio.sleep(3600)

    rig.reader.deliver = fetch  # type: ignore[method-assign, assignment]
    fetching = asyncio.create_task(rig.source.fetch(1, TOPIC, {PARTITION}, 10, 1.0))
    await asyncio.sleep(0)
    fetching.cancel()
    assert await rig.offsets() == [0, 1]


async def test_a_stop_while_the_group_rebalances_is_no_crash(rig: Rig) -> None:
    """Faust's fetcher takes its own end for one then, and with it ends the consumer that is to be drained."""
    rig.app.rebalancing = True
    fetcher = cast(Any, rig.app)._fetcher
    await fetcher.start()
    await turns()
    await fetcher.stop()
    assert not fetcher.crashed
    assert rig.app.crash_reason is None


async def test_a_consumer_that_is_closed_while_nobody_stops_ends_the_worker(rig: Rig) -> None:
    following = await rig.following()
    rig.reader.answers += [ConsumerClosing(), ConsumerClosing()]
    with pytest.raises(ConsumerClosing):
        await following


async def test_a_lost_position_ends_the_worker(rig: Rig) -> None:
    following = await rig.following()
    rig.reader.answers += [PositionLost("offset 3 was due"), PositionLost("offset 3 was due")]
    with pytest.raises(PositionLost):
        await following
