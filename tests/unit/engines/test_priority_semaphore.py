"""Who gets a slot at the server, and when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable

import pytest

from engines.base import NO_HURRY, Urgency
from engines.priority_queue import PrioritySemaphore


class Queue:
    """Takes slots for names and notes in which order they were had; each is held until `let_go`."""

    def __init__(self, count: int) -> None:
        self.slots = PrioritySemaphore(count)
        self.had: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}
        self.asked: list[asyncio.Task[None]] = []

    async def ask(self, name: str, urgency: Urgency = NO_HURRY) -> asyncio.Task[None]:
        self._gates[name] = asyncio.Event()

        async def hold() -> None:
            async with self.slots.held(urgency):
                self.had.append(name)
                await self._gates[name].wait()

        self.asked.append(asyncio.create_task(hold()))
        await settle()
        return self.asked[-1]

    async def let_go(self, name: str) -> None:
        self._gates[name].set()
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def queues() -> AsyncIterator[Callable[[int], Queue]]:
    """Makes queues with so many slots; who still holds or asks at the end leaves."""
    made: list[Queue] = []

    def make(count: int) -> Queue:
        made.append(Queue(count))
        return made[-1]

    yield make
    for task in [task for queue in made for task in queue.asked]:
        task.cancel()
    await settle()


async def test_the_most_urgent_is_next_and_of_equals_the_first_that_came(
    queues: Callable[[int], Queue],
) -> None:
    queue = queues(1)
    await queue.ask("holds")
    for name, urgency in [
        ("fourth", (-1, math.inf)),
        ("second", (-5, math.inf)),
        ("third", (-5, math.inf)),
        ("first", (-5, 10.0)),
    ]:
        await queue.ask(name, urgency)
    for name in ("holds", "first", "second", "third"):
        await queue.let_go(name)
    assert queue.had == ["holds", "first", "second", "third", "fourth"]


async def test_no_more_slots_are_held_than_there_are(queues: Callable[[int], Queue]) -> None:
    queue = queues(2)
    for name in ("a", "b", "c"):
        await queue.ask(name)
    assert queue.had == ["a", "b"]
    await queue.let_go("b")
    assert queue.had == ["a", "b", "c"]


async def test_who_leaves_the_queue_costs_nobody_a_slot(queues: Callable[[int], Queue]) -> None:
    queue = queues(1)
    await queue.ask("holds")
    leaves = await queue.ask("leaves")
    await queue.ask("stays")
    leaves.cancel()
    await queue.let_go("holds")
    assert queue.had == ["holds", "stays"]


async def test_a_slot_given_to_one_who_leaves_at_that_moment_goes_on_to_the_next(
    queues: Callable[[int], Queue],
) -> None:
    queue = queues(1)
    async with queue.slots.held(NO_HURRY):
        leaves = await queue.ask("leaves")
        await queue.ask("stays")
    leaves.cancel()  # the slot is its own already, and it has not run since
    await settle()
    assert queue.had == ["stays"]
