"""The ordered tracker: positions follow offsets, whatever order work finishes in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import UNKNOWN_OFFSET, Fetched, Position, PositionLost, Record
from tests.unit.streams.received_messages import TOPIC, Fetches, message, offsets_due

PLACE = (TOPIC, 0)


def received(count: int, *, first: int = 0, partition: int = 0) -> list[Record]:
    return [message(offset, partition=partition) for offset in range(first, first + count)]


class Acker(OffsetTracker):
    """An tracker that is given messages, each list as one fetch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.fetches = Fetches()

    def take(self, messages: list[Record], **changes: Any) -> int:
        """Track what one fetch brought; what finds no room is never offered again."""
        return self.track(self.fetches.of(messages, **changes))

    def track(self, fetched: Fetched, start: int = 0, most: int = 1_000_000) -> int:
        if start == 0:
            self.enter(fetched)
        return super().track(fetched, start, most)

    def commit(self, offsets: dict[tuple[str, int], int] | None = None) -> None:
        epochs = {place: one.epoch for place, one in self._partitions.items()}
        due = offsets_due(self) if offsets is None else offsets
        self.committed({place: Position(offset, epochs[place]) for place, offset in due.items()})


def tracking(*messages: Record, window: int = 512) -> Acker:
    tracker = Acker(window=window)
    for one in messages:
        tracker.take([one])
    return tracker


def test_nothing_may_be_committed_while_the_oldest_is_in_flight() -> None:
    first, second, third = received(3)
    tracker = tracking(first, second, third)
    tracker.done(third)
    tracker.done(second)
    assert offsets_due(tracker) == {}
    assert tracker.in_flight == 3


def test_finishing_the_oldest_lets_everything_contiguous_be_committed() -> None:
    made = received(4)
    tracker = tracking(*made)
    tracker.done(made[1])
    tracker.done(made[2])
    tracker.done(made[0])
    assert offsets_due(tracker) == {(TOPIC, 0): 3}
    assert tracker.in_flight == 1


def test_a_gap_in_the_offsets_is_no_message_in_flight() -> None:
    before, after = received(1), received(1, first=7)
    tracker = tracking(*before, *after)
    tracker.done(before[0])
    assert offsets_due(tracker) == {(TOPIC, 0): 1}
    tracker.done(after[0])
    assert offsets_due(tracker) == {(TOPIC, 0): 8}


@given(st.permutations(range(12)))
def test_every_order_of_finishing_moves_the_position_to_the_first_unfinished(order: list[int]) -> None:
    made = received(12)
    tracker = tracking(*made)
    finished: set[int] = set()
    for index in order:
        finished.add(index)
        tracker.done(made[index])
        contiguous = next(n for n in range(13) if n not in finished)
        assert offsets_due(tracker).get(PLACE, 0) == contiguous
    assert tracker.in_flight == 0


def test_partitions_do_not_wait_for_each_other() -> None:
    (slow,), (quick,) = received(1, partition=0), received(1, partition=1)
    tracker = tracking(slow, quick)
    tracker.done(quick)
    assert offsets_due(tracker) == {(TOPIC, 1): 1}


def test_what_an_earlier_generation_finishes_moves_no_position_of_a_later_one() -> None:
    old, new = received(3), received(3)
    tracker = tracking(*old)
    tracker.forget_all()
    tracker.take(new, generation=2)
    for one in old:
        tracker.done(one)
    assert offsets_due(tracker) == {}
    assert tracker.in_flight == 3
    tracker.done(new[0])
    assert offsets_due(tracker) == {PLACE: 1}


def test_forgetting_generations_keeps_count_of_what_they_have_in_flight() -> None:
    old, done = received(1), received(1, partition=1)
    tracker = tracking(*old, *done)
    tracker.done(done[0])
    tracker.forget_all()
    assert offsets_due(tracker) == {}
    assert tracker.in_flight == 1
    assert tracker.oldest_age_s() > 0
    tracker.done(old[0])
    assert tracker.in_flight == 0


def test_the_position_crosses_what_the_log_does_not_have_once_all_before_is_done() -> None:
    """Markers of transactions, aborted records, what compaction removed: the lag ends at 0."""
    tracker = Acker()
    before, behind = received(2), received(1, first=9)
    tracker.take(before, end=4)
    tracker.take([], end=9)
    tracker.take(behind)
    tracker.done(before[1])
    assert offsets_due(tracker) == {}
    tracker.done(before[0])
    assert offsets_due(tracker) == {PLACE: 9}
    tracker.done(behind[0])
    assert offsets_due(tracker) == {PLACE: 10}


def test_a_gap_that_comes_when_all_is_done_is_crossed_at_once() -> None:
    tracker = Acker()
    tracker.take([], end=1, committed=0)
    assert offsets_due(tracker) == {PLACE: 1}


def test_where_nothing_was_done_nothing_is_committed() -> None:
    tracker = Acker()
    tracker.take(received(1, first=5), committed=5)
    tracker.take(received(1, partition=1))
    assert offsets_due(tracker) == {}


def test_a_fetch_that_does_not_follow_the_one_before_is_refused_and_named() -> None:
    tracker = tracking(*received(3))
    lost = Fetched(TOPIC, 0, 1, 1, start=5, end=6, records=received(1, first=5))
    with pytest.raises(
        PositionLost, match=rf"topic {TOPIC} partition 0 .* offset 3 was due and offset 5 came"
    ):
        tracker.track(lost)
    with pytest.raises(PositionLost):
        tracker.track(lost)
    assert tracker.in_flight == 3


def test_the_first_fetch_of_an_epoch_has_to_be_the_one_that_begins_it() -> None:
    tracker = tracking(*received(1))
    behind_the_first = Fetched(TOPIC, 0, 2, 7, start=1, end=2, records=received(1, first=1))
    with pytest.raises(PositionLost):
        tracker.track(behind_the_first)
    tracker.forget_all()
    with pytest.raises(PositionLost, match="nothing was due and offset 1 came"):
        tracker.track(behind_the_first)


def test_an_epoch_begins_at_the_committed_offset() -> None:
    behind = Fetched(TOPIC, 0, 1, 1, 5, 6, received(1, first=5), begins=True, committed=3)
    with pytest.raises(PositionLost, match="offset 3 was due and offset 5 came"):
        Acker().track(behind)


def test_what_waits_for_room_follows_all_the_same() -> None:
    first, second, third = received(3)
    tracker = Acker(window=1)
    fetched = tracker.fetches.of([first, second])
    assert tracker.track(fetched) == 1
    tracker.done(first)
    assert tracker.track(fetched, 1) == 0
    tracker.commit()
    assert tracker.track(fetched, 1) == 1
    tracker.done(second)
    tracker.commit()
    assert tracker.take([third]) == 1


def test_a_replaced_log_is_committed_from_its_start_whatever_the_old_one_finishes() -> None:
    old, new = received(2, first=455), received(2)
    tracker = Acker()
    tracker.take(old, committed=455)
    tracker.done(old[0])
    assert offsets_due(tracker) == {PLACE: 456}
    tracker.take(new, epoch=2, committed=UNKNOWN_OFFSET)
    assert offsets_due(tracker) == {PLACE: 0}
    tracker.committed({PLACE: Position(456, 1)})  # a commit that was on its way
    tracker.done(old[1])
    assert (offsets_due(tracker), tracker.in_flight) == ({PLACE: 0}, 2)
    tracker.commit()
    assert offsets_due(tracker) == {}
    tracker.done(new[0])
    assert offsets_due(tracker) == {PLACE: 1}


def test_a_message_stays_uncommitted_until_its_position_was_committed() -> None:
    made = received(3)
    tracker = tracking(*made)
    tracker.done(made[1])
    tracker.done(made[0])
    assert (tracker.in_flight, tracker.uncommitted) == (1, 3)
    tracker.commit({PLACE: 1})
    assert tracker.uncommitted == 2
    tracker.commit({PLACE: 1})
    tracker.committed({PLACE: Position(3, 2)})
    assert tracker.uncommitted == 2
    tracker.done(made[2])
    tracker.commit({PLACE: 3})
    assert (tracker.in_flight, tracker.uncommitted) == (0, 0)


def test_what_was_acked_of_a_forgotten_generation_no_longer_counts() -> None:
    acked, late = received(2), received(2, partition=1)
    tracker = tracking(*acked, *late)
    for one in (*acked, late[0]):
        tracker.done(one)
    assert tracker.uncommitted == 4
    tracker.forget_all()
    assert tracker.uncommitted == 1
    tracker.done(late[1])
    assert tracker.uncommitted == 0


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
def test_messages_find_the_same_room_together_as_one_after_the_other(
    window: int, steps: list[tuple[int, int]]
) -> None:
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


def test_finishing_what_is_not_in_flight_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not in flight"):
        OffsetTracker().done(received(1)[0])


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
    tracker.hold_back((TOPIC, 3))
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
