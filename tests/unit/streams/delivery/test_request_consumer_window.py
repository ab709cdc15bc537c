"""The request_consumer's window: what is held back, and what goes on beside it."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.streams.consumer_rig import Rig, request
from tests.unit.streams.received_messages import message


async def test_a_slow_message_holds_back_acks_but_not_the_work_behind_it() -> None:
    rig = Rig()
    rig.gates["slow"] = asyncio.Event()
    rig.take(0, request(id="slow"))
    rig.take(1, request(id="quick"))
    await rig.settle()
    assert rig.journal == ["result quick", "position None"]
    rig.gates["slow"].set()
    await rig.settle()
    assert rig.journal[2:] == ["result slow", "position 2"]


async def test_no_more_than_the_window_is_taken_before_what_was_answered_is_committed() -> None:
    rig = Rig(max_in_flight=2)
    rig.gates["slow"] = asyncio.Event()
    rig.take(0, request(id="slow"))
    rig.take(1, request(id="quick"))
    rig.take(2, request(id="third"))
    await rig.settle()
    rig.commit()
    await rig.settle()
    assert len(rig.requests) == 2
    rig.gates["slow"].set()
    await rig.settle()
    assert rig.journal[-1] == "position 2"
    assert len(rig.requests) == 2
    rig.commit()
    await rig.settle()
    assert rig.journal[-1] == "position 3"


async def test_a_stuck_message_stops_neither_other_topics_nor_other_partitions_nor_those_in_one_list_with_it() -> None:
    rig = Rig(max_in_flight=4)
    rig.gates["stuck"] = asyncio.Event()
    stuck = [message(n, request(id=f"r{n}" if n else "stuck")) for n in range(20)]
    beside = [message(n, request(id=f"beside{n}"), partition=1) for n in range(20)]
    elsewhere = [message(n, request(id=f"elsewhere{n}"), topic="inference.requests.other") for n in range(20)]
    rig.take_all(stuck + beside)
    rig.take_all(elsewhere)
    for _ in range(10):
        await rig.settle()
        rig.commit()
    assert rig.tracker.held_back == {("inference.requests.asr", 0)}
    assert sorted(asked.id or "" for asked in rig.requests) == sorted(
        ["stuck", "r1", "r2", "r3"] + [f"{name}{n}" for name in ("beside", "elsewhere") for n in range(20)]
    )
    rig.gates["stuck"].set()
    for _ in range(10):
        await rig.settle()
        rig.commit()
    assert [asked.id for asked in rig.requests if asked.id and asked.id[0] == "r"] == [f"r{n}" for n in range(1, 20)]
    assert (len(rig.requests), rig.tracker.uncommitted, rig.tracker.held_back) == (60, 0, set())


async def test_messages_that_all_take_long_leave_room_for_those_of_other_partitions() -> None:
    rig = Rig(max_in_flight=4)
    for n in range(8):
        rig.gates[f"slow{n}"] = asyncio.Event()
    rig.take_all([message(n, request(id=f"slow{n}")) for n in range(8)])
    rig.take_all([message(n, request(id=f"quick{n}"), partition=1) for n in range(8)])
    for _ in range(10):
        await rig.settle()
        rig.commit()
    assert [result["id"] for result in rig.results] == [f"quick{n}" for n in range(8)]
    assert len(rig.requests) == 12
    for gate in rig.gates.values():
        gate.set()
    while rig.tracker.uncommitted or rig.tracker.held_back:
        await rig.settle()
        rig.commit()


async def test_what_comes_behind_messages_that_are_held_back_waits_behind_them() -> None:
    rig = Rig(max_in_flight=1)
    rig.take_all([message(n, request(id=f"r{n}")) for n in range(2)])
    await rig.settle()
    rig.commit()  # there is room, and r1 has not taken it yet
    rig.take_all([message(n, request(id=f"r{n}")) for n in range(2, 4)])
    for _ in range(5):
        await rig.settle()
        rig.commit()
    assert [asked.id for asked in rig.requests] == [f"r{n}" for n in range(4)]


async def test_a_partition_that_comes_back_goes_on_with_what_was_fetched_since() -> None:
    rig = Rig(max_in_flight=1)
    rig.gates["slow"] = asyncio.Event()
    rig.take_all([message(0, request(id="slow")), message(1, request(id="late"))])
    await rig.settle()
    rig.reassign(0)
    rig.take_all([message(0, request(id="again")), message(1, request(id="late"))])
    rig.gates["slow"].set()
    for _ in range(5):
        await rig.settle()
        rig.commit()
    assert [asked.id for asked in rig.requests] == ["slow", "again", "late"]
    assert (rig.tracker.uncommitted, rig.tracker.held_back) == (0, set())


@pytest.mark.logs_errors("held_back_messages_stopped")
async def test_a_fault_while_messages_are_held_back_is_fatal() -> None:
    rig = Rig(max_in_flight=1)
    rig.take_all([message(0, request(id="r0")), message(1, request(id="r1"))])
    rig.tracker.release = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
    await rig.settle()
    rig.commit()
    await rig.settle()
    assert [type(error) for error in rig.fatal] == [ZeroDivisionError]


async def test_closing_leaves_what_is_held_back_to_the_broker() -> None:
    rig = Rig(max_in_flight=1)
    rig.take_all([message(0, request(id="r0")), message(1, request(id="r1"))])
    await rig.settle()
    await rig.request_consumer.close()
    rig.commit()
    await rig.settle()
    assert [asked.id for asked in rig.requests] == ["r0"]


async def test_messages_that_were_handed_out_again_while_they_waited_are_not_taken() -> None:
    rig = Rig(max_in_flight=1)
    rig.gates["slow"] = asyncio.Event()
    rig.take_all([message(0, request(id="slow")), message(1, request(id="late")), message(2, request())])
    await rig.settle()
    rig.gates["slow"].set()
    await rig.settle()
    rig.reassign(0)
    await rig.settle()
    assert [asked.id for asked in rig.requests] == ["slow"]
    assert rig.tracker.in_flight == 0
