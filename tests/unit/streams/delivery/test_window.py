"""How many messages may be in flight and uncommitted, and who goes on when there is room again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Record
from tests.unit.streams.delivery.tracked_messages import PLACE, Acker, received, tracking
from tests.unit.streams.received_messages import TOPIC, offsets_due


def test_a_commit_is_due_while_so_many_are_acked_and_not_committed() -> None:
    made = received(3)
    tracker = tracking(*made, window=4)
    tracker.done(made[0])
    assert not tracker.commit_is_due.is_set()
    tracker.done(made[1])
    assert tracker.commit_is_due.is_set()
    tracker.commit({PLACE: 2})
    assert not tracker.commit_is_due.is_set()
    tracker.done(made[2])
    assert not tracker.commit_is_due.is_set()


def test_a_partition_has_room_for_a_window_of_messages_that_are_not_committed() -> None:
    stuck, second, third = received(3)
    tracker = tracking(stuck, second, window=2)
    tracker.done(second)
    last = tracker.fetches.of([third])
    assert not tracker.track(last)
    tracker.done(stuck)
    assert not tracker.track(last)
    tracker.commit({PLACE: 2})
    assert tracker.track(last)


def test_a_message_for_which_there_is_no_room_is_not_counted() -> None:
    first, second = received(2)
    tracker = tracking(first, window=1)
    assert not tracker.take([second])
    assert (tracker.in_flight, tracker.uncommitted, tracker.unfinished) == (1, 1, 1)
    tracker.done(first)
    assert offsets_due(tracker) == {(TOPIC, 0): 1}
    with pytest.raises(ValueError, match="not in flight"):
        tracker.done(second)


def test_what_is_finished_behind_a_stuck_message_takes_no_room_of_other_partitions() -> None:
    behind_stuck, others = received(4), received(4, partition=1)
    tracker = tracking(*behind_stuck, window=4)
    for one in behind_stuck[1:]:
        tracker.done(one)
    assert tracker.take(others) == 3


def test_a_partition_that_fills_the_window_leaves_every_other_its_share() -> None:
    tracker = tracking(*received(8), window=8)
    second, third = received(8, partition=1), received(8, partition=2)
    assert tracker.take(second) == 4
    assert tracker.take(third) == 3
    assert tracker.unfinished == 15


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=200)
"""A partition, and how many messages of it come; for 0 one that runs, wherever it is, is done."""


@given(st.integers(1, 6), STEPS)
def test_whatever_comes_and_goes_less_than_two_windows_and_a_message_each_are_unfinished(
    window: int, steps: list[tuple[int, int]]
) -> None:
    tracker = Acker(window=window)
    running: list[Record] = []
    waiting: dict[int, tuple[Fetched, int]] = {}
    for offset, (partition, count) in enumerate(steps):
        if not count and running:
            tracker.done(running.pop(partition % len(running)))
        elif count:
            if partition in waiting:
                fetched, start = waiting.pop(partition)
            else:
                messages = received(count, first=10 * offset, partition=partition)
                fetched, start = tracker.fetches.of(messages), 0
            tracked = start + tracker.track(fetched, start)
            running += fetched.records[start:tracked]
            if tracked < len(fetched.records):
                waiting[partition] = fetched, tracked
    assert tracker.unfinished == len(running) <= 2 * window + 10


@given(st.integers(1, 6), STEPS)
def test_messages_find_the_same_room_together_as_one_after_the_other(window: int, steps: list[tuple[int, int]]) -> None:
    together, singly = Acker(window=window), Acker(window=window)
    stuck: set[int] = set()
    for offset, (partition, count) in enumerate(steps):
        if partition in stuck:
            continue
        messages = received(count + 1, first=10 * offset, partition=partition)
        copies = received(count + 1, first=10 * offset, partition=partition)
        tracked = together.take(messages)
        found_room = []
        for one in copies:
            found_room.append(singly.take([one]))
            if not found_room[-1]:
                stuck.add(partition)
                break
        assert found_room == [1] * tracked + [0] * (partition in stuck)
        if tracked and not count:
            together.done(messages[0])
            singly.done(copies[0])
    assert (together.unfinished, together.uncommitted) == (singly.unfinished, singly.uncommitted)


async def test_whoever_waits_for_progress_goes_on_at_the_next_ack_and_not_before() -> None:
    first, second = received(2)
    tracker = tracking(first, second)
    waiting = asyncio.create_task(tracker.progress())
    draining = asyncio.create_task(tracker.drained())
    await asyncio.sleep(0)
    tracker.done(second)
    await asyncio.sleep(0)
    assert not waiting.done()
    tracker.done(first)
    await waiting
    await draining


async def test_whoever_waits_while_all_room_is_taken_goes_on_when_any_message_is_done() -> None:
    made = received(2)
    tracker = tracking(*made, window=2)
    waiting = asyncio.create_task(tracker.progress())
    await asyncio.sleep(0)
    tracker.done(made[1])
    await asyncio.wait_for(waiting, 10)


async def test_whoever_waits_goes_on_when_a_partition_is_released() -> None:
    tracker = OffsetTracker()
    tracker.held_back.add((TOPIC, 3))
    assert tracker.held_back == {(TOPIC, 3)}
    waiting = asyncio.create_task(tracker.progress())
    await asyncio.sleep(0)
    tracker.release((TOPIC, 3))
    await asyncio.wait_for(waiting, 10)
    assert not tracker.held_back


def test_the_oldest_age_is_that_of_the_oldest_unacked_message() -> None:
    now = 100.0
    tracker = Acker(clock=lambda: now)
    first, second = received(2)
    tracker.take([first])
    now = 130.0
    tracker.take([second])
    now = 150.0
    assert tracker.oldest_age_s() == 50.0
    tracker.done(first)
    assert tracker.oldest_age_s() == 20.0
    tracker.done(second)
    assert tracker.oldest_age_s() == 0.0
