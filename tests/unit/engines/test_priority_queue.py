"""The queue by urgency: who is first."""

from __future__ import annotations

import random

from engines.priority_queue import PriorityQueue


def queue_of(*urgencies: tuple[float, float]) -> PriorityQueue[int]:
    """Return a queue of the places of these urgencies."""
    queue: PriorityQueue[int] = PriorityQueue()
    for place, urgency in enumerate(urgencies):
        queue.put(place, urgency)
    return queue


def test_the_smallest_urgency_goes_first_and_equals_in_the_order_in_which_they_came() -> None:
    queue = queue_of((-5, 9.0), (-9, 1.0), (-5, 2.0), (-9, 1.0), (-5, 9.0))
    assert queue.drain() == [1, 3, 2, 0, 4]
    assert len(queue) == 0


def test_the_first_item_can_be_looked_at_before_it_is_taken() -> None:
    queue = queue_of((1.0, 0.0), (0.0, 0.0))
    assert (queue.first(), queue.first_urgency, len(queue)) == (1, (0.0, 0.0), 2)
    assert (queue.take(), len(queue)) == (1, 1)


def test_what_is_put_back_is_the_first_again_also_where_it_was_the_last_of_its_urgency() -> None:
    queue = queue_of((0.0, 0.0), (0.0, 0.0), (-1.0, 0.0))
    for urgency in ((-1.0, 0.0), (0.0, 0.0)):
        first = queue.take()
        queue.put_back(first, urgency)
        assert (queue.take(), queue.first_urgency) == (first, (0.0, 0.0))
    queue.put_back(0, (0.0, 0.0))
    assert (len(queue), queue.drain()) == (2, [0, 1])


def test_any_mix_of_puts_and_takes_keeps_the_order() -> None:
    draw = random.Random(7)
    queue: PriorityQueue[int] = PriorityQueue()
    waiting: list[tuple[tuple[float, float], int]] = []
    for turn in range(2000):
        if waiting and draw.random() < 0.45:
            first = min(waiting)
            waiting.remove(first)
            assert (queue.first_urgency, queue.take()) == first
        else:
            urgency = (float(-draw.randrange(3)), float(draw.choice([1, 2, 3])))
            waiting.append((urgency, turn))
            queue.put(turn, urgency)
    assert len(queue) == len(waiting)
    assert queue.drain() == [turn for _, turn in sorted(waiting)]
