"""The ordered acker: positions follow offsets, whatever order work finishes in."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.acks import OrderedAcker, Received
from tests.unit.streams.received_messages import TOPIC, message


def received(count: int, *, first: int = 0, partition: int = 0, generation: int = 1) -> list[Received]:
    return [
        message(offset, partition=partition, generation=generation) for offset in range(first, first + count)
    ]


def tracking(*messages: Received, window: int = 512) -> OrderedAcker:
    acker = OrderedAcker(window=window)
    for one in messages:
        acker.track([one])
    return acker


def test_nothing_may_be_committed_while_the_oldest_is_in_flight() -> None:
    first, second, third = received(3)
    acker = tracking(first, second, third)
    acker.done(third)
    acker.done(second)
    assert acker.positions(1) == {}
    assert acker.in_flight == 3


def test_finishing_the_oldest_lets_everything_contiguous_be_committed() -> None:
    made = received(4)
    acker = tracking(*made)
    acker.done(made[1])
    acker.done(made[2])
    acker.done(made[0])
    assert acker.positions(1) == {(TOPIC, 0): 3}
    assert acker.in_flight == 1


def test_a_gap_in_the_offsets_is_no_message_in_flight() -> None:
    before, after = received(1), received(1, first=7)
    acker = tracking(*before, *after)
    acker.done(before[0])
    assert acker.positions(1) == {(TOPIC, 0): 1}
    acker.done(after[0])
    assert acker.positions(1) == {(TOPIC, 0): 8}


@given(st.permutations(range(12)))
def test_every_order_of_finishing_moves_the_position_to_the_first_unfinished(order: list[int]) -> None:
    made = received(12)
    acker = tracking(*made)
    finished: set[int] = set()
    for index in order:
        finished.add(index)
        acker.done(made[index])
        contiguous = next(n for n in range(13) if n not in finished)
        assert acker.positions(1).get((TOPIC, 0), 0) == contiguous
    assert acker.in_flight == 0


def test_partitions_do_not_wait_for_each_other() -> None:
    (slow,), (quick,) = received(1, partition=0), received(1, partition=1)
    acker = tracking(slow, quick)
    acker.done(quick)
    assert acker.positions(1) == {(TOPIC, 1): 1}


def test_what_an_earlier_generation_finishes_moves_no_position_of_a_later_one() -> None:
    old, new = received(3, generation=1), received(3, generation=2)
    acker = tracking(*old, *new)
    for one in old:
        acker.done(one)
    assert acker.positions(2) == {}
    assert acker.in_flight == 3
    acker.done(new[0])
    assert acker.positions(2) == {(TOPIC, 0): 1}


def test_forgetting_other_generations_keeps_count_of_what_they_have_in_flight() -> None:
    old, done = received(1, generation=1), received(1, partition=1, generation=1)
    acker = tracking(*old, *done)
    acker.done(done[0])
    acker.forget_all_but(2)
    assert acker.positions(1) == {}
    assert acker.in_flight == 1
    acker.done(old[0])
    assert acker.in_flight == 0


def test_a_message_stays_uncommitted_until_its_position_was_committed() -> None:
    made = received(3)
    acker = tracking(*made)
    acker.done(made[1])
    acker.done(made[0])
    assert (acker.in_flight, acker.uncommitted) == (1, 3)
    acker.committed(1, [((TOPIC, 0), 1)])
    assert acker.uncommitted == 2
    acker.committed(1, [((TOPIC, 0), 1)])
    acker.committed(2, [((TOPIC, 0), 3)])
    assert acker.uncommitted == 2
    acker.done(made[2])
    acker.committed(1, [((TOPIC, 0), 3)])
    assert (acker.in_flight, acker.uncommitted) == (0, 0)


def test_what_was_acked_of_a_forgotten_generation_no_longer_counts() -> None:
    acked, late = received(2, generation=1), received(2, partition=1, generation=1)
    acker = tracking(*acked, *late)
    for one in (*acked, late[0]):
        acker.done(one)
    assert acker.uncommitted == 4
    acker.forget_all_but(2)
    assert acker.uncommitted == 1
    acker.done(late[1])
    assert acker.uncommitted == 0


def test_a_commit_is_due_while_so_many_are_acked_and_not_committed() -> None:
    made = received(3)
    acker = tracking(*made, window=4)
    acker.done(made[0])
    assert not acker.commit_is_due.is_set()
    acker.done(made[1])
    assert acker.commit_is_due.is_set()
    acker.committed(1, [((TOPIC, 0), 2)])
    assert not acker.commit_is_due.is_set()
    acker.done(made[2])
    assert not acker.commit_is_due.is_set()


def test_a_partition_has_room_for_a_window_of_messages_that_are_not_committed() -> None:
    stuck, second, third = received(3)
    acker = tracking(window=2)
    assert acker.track([stuck])
    assert acker.track([second])
    acker.done(second)
    assert not acker.track([third])
    acker.done(stuck)
    assert not acker.track([third])
    acker.committed(1, [((TOPIC, 0), 2)])
    assert acker.track([third])


def test_a_message_for_which_there_is_no_room_is_not_counted() -> None:
    first, second = received(2)
    acker = tracking(first, window=1)
    assert not acker.track([second])
    assert (acker.in_flight, acker.uncommitted, acker.unfinished) == (1, 1, 1)
    acker.done(first)
    assert acker.positions(1) == {(TOPIC, 0): 1}
    with pytest.raises(ValueError, match="not in flight"):
        acker.done(second)


def test_what_is_finished_behind_a_stuck_message_takes_no_room_of_other_partitions() -> None:
    behind_stuck, others = received(4), received(4, partition=1)
    acker = tracking(*behind_stuck, window=4)
    for one in behind_stuck[1:]:
        acker.done(one)
    assert acker.track(others) == 3


def test_a_partition_that_fills_the_window_leaves_every_other_its_share() -> None:
    acker = tracking(*received(8), window=8)
    second, third = received(8, partition=1), received(8, partition=2)
    assert acker.track(second) == 4
    assert acker.track(third) == 3
    assert acker.unfinished == 15


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=200)
"""A partition, and how many messages of it come; for 0 one that runs, wherever it is, is done."""


@given(st.integers(1, 6), STEPS)
def test_whatever_comes_and_goes_less_than_two_windows_and_a_message_each_are_unfinished(
    window: int, steps: list[tuple[int, int]]
) -> None:
    acker = OrderedAcker(window=window)
    running: list[Received] = []
    for offset, (partition, count) in enumerate(steps):
        if not count and running:
            acker.done(running.pop(partition % len(running)))
        elif count:
            messages = received(count, first=10 * offset, partition=partition)
            running += messages[: acker.track(messages)]
    assert acker.unfinished == len(running) <= 2 * window + 10


@given(st.integers(1, 6), STEPS)
def test_messages_find_the_same_room_together_as_one_after_the_other(
    window: int, steps: list[tuple[int, int]]
) -> None:
    together, singly = OrderedAcker(window=window), OrderedAcker(window=window)
    for offset, (partition, count) in enumerate(steps):
        messages = received(count + 1, first=10 * offset, partition=partition)
        copies = received(count + 1, first=10 * offset, partition=partition)
        tracked = together.track(messages)
        assert [singly.track([one]) for one in copies] == [1] * tracked + [0] * (len(copies) - tracked)
        if tracked and not count:
            together.done(messages[0])
            singly.done(copies[0])
    assert (together.unfinished, together.uncommitted) == (singly.unfinished, singly.uncommitted)


def test_finishing_what_is_not_in_flight_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not in flight"):
        OrderedAcker().done(received(1)[0])


async def test_whoever_waits_for_progress_goes_on_at_the_next_ack_and_not_before() -> None:
    first, second = received(2)
    acker = tracking(first, second)
    waiting = asyncio.create_task(acker.progress())
    draining = asyncio.create_task(acker.drained())
    await asyncio.sleep(0)
    acker.done(second)
    await asyncio.sleep(0)
    assert not waiting.done()
    acker.done(first)
    await waiting
    await draining


async def test_whoever_waits_while_all_room_is_taken_goes_on_when_any_message_is_done() -> None:
    made = received(2)
    acker = tracking(*made, window=2)
    waiting = asyncio.create_task(acker.progress())
    await asyncio.sleep(0)
    acker.done(made[1])
    await asyncio.wait_for(waiting, 10)


async def test_whoever_waits_goes_on_when_a_partition_is_released() -> None:
    acker = OrderedAcker()
    acker.hold_back((TOPIC, 3))
    assert acker.held_back == {(TOPIC, 3)}
    waiting = asyncio.create_task(acker.progress())
    await asyncio.sleep(0)
    acker.release((TOPIC, 3))
    await asyncio.wait_for(waiting, 10)
    assert not acker.held_back


def test_the_oldest_age_is_that_of_the_oldest_unacked_message() -> None:
    now = 100.0
    acker = OrderedAcker(clock=lambda: now)
    first, second = received(2)
    acker.track([first])
    now = 130.0
    acker.track([second])
    now = 150.0
    assert acker.oldest_age_s() == 50.0
    acker.done(first)
    assert acker.oldest_age_s() == 20.0
    acker.done(second)
    assert acker.oldest_age_s() == 0.0
