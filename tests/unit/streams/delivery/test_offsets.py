"""The ordered tracker: positions follow offsets, whatever order work finishes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import UNKNOWN_OFFSET, Fetched, Position, PositionLost
from tests.unit.streams.delivery.tracked_messages import PLACE, Acker, received, tracking
from tests.unit.streams.received_messages import TOPIC, offsets_due


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
    with pytest.raises(PositionLost, match=rf"topic {TOPIC} partition 0 .* offset 3 was due and offset 5 came"):
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


def test_finishing_what_is_not_in_flight_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not in flight"):
        OffsetTracker().done(received(1)[0])
