"""The ordered acker: acks follow offsets, whatever order work finishes in."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.acks import OrderedAcker


@dataclass
class Message:
    offset: int
    topic: str = "requests"
    partition: int = 0
    generation_id: int | None = 1


@dataclass
class Event:
    message: Message
    acked: list[int] = field(default_factory=list)

    def ack(self) -> None:
        self.acked.append(self.message.offset)


def events(count: int, *, partition: int = 0, generation: int = 1) -> tuple[list[Event], list[int]]:
    acked: list[int] = []
    made = [Event(Message(n, partition=partition, generation_id=generation), acked) for n in range(count)]
    return made, acked


def test_nothing_is_acked_while_the_oldest_is_in_flight() -> None:
    acker = OrderedAcker()
    (first, second, third), acked = events(3)
    for event in (first, second, third):
        acker.track(event)
    assert acker.done(third) == 0
    assert acker.done(second) == 0
    assert acked == []
    assert acker.in_flight == 3


def test_finishing_the_oldest_acks_everything_contiguous_in_order() -> None:
    acker = OrderedAcker()
    made, acked = events(4)
    for event in made:
        acker.track(event)
    acker.done(made[1])
    acker.done(made[2])
    assert acker.done(made[0]) == 3
    assert acked == [0, 1, 2]
    assert acker.in_flight == 1


@given(st.permutations(range(12)))
def test_every_order_of_finishing_acks_all_in_offset_order(order: list[int]) -> None:
    acker = OrderedAcker()
    made, acked = events(12)
    for event in made:
        acker.track(event)
    finished: set[int] = set()
    for index in order:
        finished.add(index)
        acker.done(made[index])
        contiguous = next(n for n in range(13) if n not in finished)
        assert acked == list(range(contiguous))
    assert acker.in_flight == 0


def test_partitions_do_not_wait_for_each_other() -> None:
    acker = OrderedAcker()
    (slow,), slow_acked = events(1, partition=0)
    (quick,), quick_acked = events(1, partition=1)
    acker.track(slow)
    acker.track(quick)
    acker.done(quick)
    assert (slow_acked, quick_acked) == ([], [0])


def test_a_redelivered_offset_of_a_new_generation_is_a_message_of_its_own() -> None:
    acker = OrderedAcker()
    (old,), old_acked = events(1, generation=1)
    (new,), new_acked = events(1, generation=2)
    acker.track(old)
    acker.track(new)
    acker.done(old)
    assert (old_acked, new_acked) == ([0], [])


def test_finishing_what_is_not_in_flight_is_a_fault_of_the_caller() -> None:
    acker = OrderedAcker()
    (event,), _ = events(1)
    with pytest.raises(KeyError):
        acker.done(event)


def test_the_oldest_age_is_that_of_the_oldest_unacked_message() -> None:
    now = 100.0
    acker = OrderedAcker(clock=lambda: now)
    made, _ = events(2)
    acker.track(made[0])
    now = 130.0
    acker.track(made[1])
    now = 150.0
    assert acker.oldest_age_s() == 50.0
    acker.done(made[0])
    assert acker.oldest_age_s() == 20.0
    acker.done(made[1])
    assert acker.oldest_age_s() == 0.0
