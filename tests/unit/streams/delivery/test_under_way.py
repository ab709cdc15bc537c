"""Requests that run while partitions are reassigned: they go on, or end, and never run twice at once."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from streams.delivery.port import Record
from tests.unit.streams.consumer_rig import Rig, request
from tests.unit.streams.received_messages import TOPIC, Fetches, message, offsets_due


def asked(offset: int, partition: int = 0) -> Record:
    return message(offset, request(id=f"p{partition}-{offset}"), partition=partition)


async def running(*messages: Record) -> Rig:
    """Return a rig where these run until their gate is set."""
    rig = Rig()
    for one in messages:
        rig.gates[f"p{one.partition}-{one.offset}"] = asyncio.Event()
    rig.take_all(list(messages))
    await rig.settle()
    return rig


async def test_a_request_whose_partition_comes_back_goes_on_and_acks_the_record_fetched_again() -> None:
    rig = await running(asked(0), asked(1))
    rig.reassign(0)
    rig.take_all([asked(0), asked(1), asked(2)])
    await rig.settle()
    assert [one.id for one in rig.requests] == ["p0-0", "p0-1", "p0-2"]
    assert rig.tracker.unfinished == 2
    rig.gates["p0-0"].set()
    rig.gates["p0-1"].set()
    await rig.settle()
    assert [one["id"] for one in rig.results] == ["p0-2", "p0-0", "p0-1"]
    assert offsets_due(rig.tracker) == {(TOPIC, 0): 3}
    assert (rig.tracker.unfinished, rig.cancelled) == (0, [])


async def test_a_request_goes_on_through_several_rebalances() -> None:
    rig = await running(asked(0))
    for _ in range(3):
        rig.reassign(0)
        rig.take_all([asked(0)])
        await rig.settle()
    assert (rig.tracker.unfinished, rig.tracker.in_flight) == (1, 1)
    rig.gates["p0-0"].set()
    await rig.settle()
    assert [one.id for one in rig.requests] == ["p0-0"]
    assert offsets_due(rig.tracker) == {(TOPIC, 0): 1}
    assert rig.tracker.unfinished == 0


async def test_a_request_whose_partition_comes_back_after_it_was_away_runs_once_more() -> None:
    rig = await running(asked(0))
    rig.reassign()
    rig.reassign(0)
    rig.take_all([asked(0)])
    await rig.settle()
    assert (rig.cancelled, len(rig.requests), rig.tracker.unfinished) == (["p0-0"], 2, 1)
    await rig.close()


async def test_requests_of_a_partition_that_went_to_others_are_cancelled_and_told() -> None:
    rig = await running(asked(0), asked(0, partition=1), asked(1, partition=1))
    with structlog.testing.capture_logs() as lines:
        rig.reassign(0)
    assert rig.cancelled == ["p1-0", "p1-1"]
    assert lines == [{"event": "requests_left_to_others", "log_level": "info", "requests": 2}]
    assert (rig.tracker.unfinished, rig.tracker.in_flight) == (1, 1)
    rig.gates["p0-0"].set()
    await rig.settle()
    assert [one["id"] for one in rig.results] == ["p0-0"]


async def test_requests_that_others_have_committed_meanwhile_are_cancelled() -> None:
    rig = await running(asked(0), asked(1), asked(2))
    rig.reassign(0)
    rig.take_all([asked(2), asked(3)])
    await rig.settle()
    assert rig.cancelled == ["p0-0", "p0-1"]
    assert [one.id for one in rig.requests] == ["p0-0", "p0-1", "p0-2", "p0-3"]
    assert rig.tracker.unfinished == 1
    await rig.close()


async def test_another_record_at_the_offset_of_a_running_request_starts_and_the_old_one_is_cancelled() -> None:
    rig = await running(asked(0))
    rig.reassign(0)
    rig.gates["new"] = asyncio.Event()
    rig.take_all([message(0, request(id="new"))])
    await rig.settle()
    assert ([one.id for one in rig.requests], rig.cancelled) == (["p0-0", "new"], ["p0-0"])
    assert rig.tracker.unfinished == 1
    await rig.close()


async def test_requests_of_a_topic_that_was_made_again_are_cancelled() -> None:
    rig = await running(asked(0), asked(1), asked(0, partition=1))
    again = Fetches().of([message(0, request(id="new"))], generation=rig.generation, epoch=7, committed=0)
    rig.request_consumer.take([again], "asr")
    await rig.settle()
    assert rig.cancelled == ["p0-0", "p0-1"]
    assert [one["id"] for one in rig.results] == ["new"]
    assert offsets_due(rig.tracker) == {(TOPIC, 0): 1}
    await rig.close()


@pytest.mark.parametrize("comes_back", [True, False])
async def test_an_outcome_on_its_way_to_the_broker_is_not_made_again(comes_back: bool) -> None:
    rig = Rig()
    published = asyncio.Event()
    publish = rig.result

    async def result(*args: object) -> None:
        await published.wait()
        await publish(*args)  # type: ignore[arg-type]

    rig.result = result  # type: ignore[method-assign, assignment]
    rig.take_all([asked(0)])
    await rig.settle()
    rig.reassign(*([0] if comes_back else []))
    if comes_back:
        rig.take_all([asked(0)])
    published.set()
    await rig.settle()
    assert (len(rig.requests), len(rig.results), rig.cancelled) == (1, 1, [])
    assert offsets_due(rig.tracker) == ({(TOPIC, 0): 1} if comes_back else {})
    assert rig.tracker.unfinished == 0


async def test_the_oldest_age_and_the_count_leave_out_what_was_given_back() -> None:
    rig = await running(asked(0), asked(0, partition=1))
    rig.not_begun = {"p0-0", "p1-0"}
    rig.request_consumer.under_way.give_back()
    assert (rig.tracker.in_flight, rig.tracker.unfinished, rig.tracker.oldest_age_s()) == (0, 0, 0.0)
    await rig.close()
