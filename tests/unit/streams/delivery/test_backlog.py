"""Messages held back for want of room: in order within a partition, and each partition by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import groupby

import pytest

from engines.run.job import Alike
from streams.delivery.backlog import Backlog
from streams.delivery.crash_guard import CrashGuard, CrashNote
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Record
from tests.unit.streams.delivery.tracked_messages import received
from tests.unit.streams.received_messages import TOPIC, Fetches, NoGuard, offsets_due


class Rig:
    """A window of one message, and a note of what was started."""

    def __init__(self) -> None:
        self.tracker = OffsetTracker(window=1)
        self.generation = 1
        self.fetches = Fetches()
        self.started: list[Record] = []
        self.fatal: list[BaseException] = []
        self.held_back = Backlog(
            self.tracker,
            NoGuard(self.tracker),
            is_current=lambda generation: generation == self.generation,
            enter=self.tracker.enter,
            start=self.start,
            on_fatal=self.fatal.append,
        )

    def start(self, message: Record, task: str, alike: Alike) -> None:
        assert task == "asr"
        self.started.append(message)

    def enter(self, *messages: Record) -> None:
        """Let messages of any partitions enter, as one fetch of each in turn."""
        for _, of_place in groupby(messages, key=lambda message: message.partition):
            fetched = self.fetches.of(list(of_place), generation=self.generation)
            self.held_back.enter(fetched, "asr", {})

    async def finish(self, message: Record) -> None:
        self.tracker.done(message)
        self.tracker.committed(self.tracker.positions())
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.held_back.close()


async def test_messages_of_one_partition_start_in_order_as_room_comes(rig: Rig) -> None:
    made = received(3)
    rig.enter(*made)
    for count in (1, 2, 3):
        await settled()
        assert rig.started == made[:count]
        assert bool(rig.tracker.held_back) == (count < 3)
        await rig.finish(made[count - 1])
    assert rig.tracker.uncommitted == 0


async def test_what_a_later_fetch_brings_waits_behind_the_rest_of_an_earlier_one(rig: Rig) -> None:
    made = received(7)
    rig.enter(*made[:3])
    rig.enter(*made[3:5])
    for number, message in enumerate(made):
        await settled()
        if number == 1:
            rig.enter(*made[5:])
        assert rig.started == made[: number + 1]
        await rig.finish(message)
    assert not rig.tracker.held_back


async def test_a_partition_without_room_holds_up_no_other(rig: Rig) -> None:
    stuck, others = received(2), received(3, partition=1)
    rig.enter(*stuck, *others)
    for message in others:
        await settled()
        await rig.finish(message)
    assert rig.started == [stuck[0], *others]
    assert rig.tracker.held_back == {(TOPIC, 0)}


async def test_messages_that_were_handed_out_again_are_let_go(rig: Rig) -> None:
    old, new = received(3), received(1)
    rig.enter(*old)
    await settled()
    rig.generation = 2
    rig.tracker.forget_all()
    rig.enter(*new)
    await settled()
    assert rig.started == [old[0], *new]
    assert not rig.tracker.held_back


async def test_a_gap_behind_messages_that_wait_is_crossed_behind_them(rig: Rig) -> None:
    made = received(2)
    rig.enter(*made)
    rig.held_back.enter(rig.fetches.of([], end=5), "asr", {})
    await settled()
    await rig.finish(made[0])
    rig.tracker.done(made[1])
    assert offsets_due(rig.tracker) == {(TOPIC, 0): 5}
    assert not rig.tracker.held_back


@pytest.mark.logs_errors("held_back_messages_stopped")
async def test_a_fault_ends_the_worker_rather_than_the_work_alone(rig: Rig) -> None:
    made = received(2)
    rig.enter(*made)
    rig.held_back._start = lambda *_: 1 / 0  # type: ignore[assignment]
    await rig.finish(made[0])
    assert [type(error) for error in rig.fatal] == [ZeroDivisionError]


async def test_nothing_starts_after_the_close(rig: Rig) -> None:
    made = received(2)
    rig.enter(*made)
    await settled()
    await rig.held_back.close()
    await rig.finish(made[0])
    assert rig.started == made[:1]


async def test_a_partition_that_is_read_with_care_leaves_every_other_its_turn() -> None:
    tracker = OffsetTracker(window=512)
    guard = CrashGuard(tracker, max_crashes=2, window=512)
    started: list[Record] = []

    def start(message: Record, task: str, alike: Alike) -> None:
        started.append(message)

    fatal: list[BaseException] = []
    held_back = Backlog(
        tracker, guard, is_current=lambda _: True, enter=tracker.enter, start=start, on_fatal=fatal.append
    )
    for number, (count, note) in enumerate([(200, str(CrashNote(2))), (1, "")]):
        records = received(count, partition=number)
        held_back.enter(Fetched(TOPIC, number, 1, number, 0, count, records, True, 0, note), "asr", {})
    finished = 0
    while not any(one.partition for one in started):
        assert finished < 200, "all of the other partition went first"
        await settled()
        for one in started[finished:]:
            tracker.done(one)
        finished = len(started)
        due = guard.positions()
        guard.told(due)
        tracker.committed(due)
        await settled()
    assert finished < 50
    assert not fatal
    await held_back.close()
