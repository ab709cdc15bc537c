"""The byte budget: who waits, who goes first, and what counts."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.base import Urgency
from handlers.media import Media
from streams.pipeline.byte_budget import ByteBudget, bytes_in


class Request:
    """Holds `count` bytes of the budget from when it gets in until it is let go."""

    def __init__(self, budget: ByteBudget, count: int, urgency: Urgency = (0.0, 0.0), lane: str = "") -> None:
        self.is_in = False
        self.gone = asyncio.Event()
        self.settling = asyncio.Event()
        self.settling.set()
        self.task = asyncio.create_task(self._run(budget, count, urgency, lane))

    async def _run(self, budget: ByteBudget, count: int, urgency: Urgency, lane: str) -> None:
        async with budget.holding(urgency, lane) as holding:
            self.is_in = True
            holding.hold(count)
            await self.settling.wait()
            holding.settle(count)
            await self.gone.wait()

    async def go(self) -> None:
        self.gone.set()
        await self.task


def unsettled(budget: ByteBudget) -> int:
    return sum(lane.unsettled for lane in budget._lanes.values())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_pass_while_less_than_the_budget_is_held() -> None:
    budget = ByteBudget(100)
    requests = [Request(budget, 40), Request(budget, 50)]
    await settle()
    assert [one.is_in for one in requests] == [True, True]
    assert budget.held == 90
    for one in requests:
        await one.go()
    assert (budget.held, unsettled(budget)) == (0, 0)


async def test_a_request_waits_while_the_budget_is_spent_and_goes_on_when_some_is_freed() -> None:
    budget = ByteBudget(100)
    first, second = Request(budget, 100), Request(budget, 1)
    await settle()
    assert [first.is_in, second.is_in] == [True, False]
    await first.go()
    await settle()
    assert second.is_in
    await second.go()


async def test_no_more_requests_than_allowed_are_on_their_way_to_a_size_that_is_known() -> None:
    budget = ByteBudget(100, max_unsettled=2)
    requests = [Request(budget, 10) for _ in range(3)]
    for one in requests:
        one.settling.clear()
    await settle()
    assert [one.is_in for one in requests] == [True, True, False]
    requests[0].settling.set()
    await settle()
    assert requests[2].is_in
    for one in requests:
        one.settling.set()
        await one.go()


async def test_the_most_urgent_of_those_who_wait_goes_first() -> None:
    budget = ByteBudget(100, max_unsettled=1)
    first = Request(budget, 100)
    await settle()
    later = [Request(budget, 100, urgency) for urgency in ((0.0, 9.0), (-9.0, 9.0), (0.0, 1.0))]
    await settle()
    order = []
    await first.go()
    for _ in later:
        await settle()
        (entered,) = [number for number, one in enumerate(later) if one.is_in and number not in order]
        order.append(entered)
        await later[entered].go()
    assert order == [1, 2, 0]


async def test_what_a_failed_request_held_is_freed() -> None:
    budget = ByteBudget(10)
    with pytest.raises(ValueError, match="bad"):
        async with budget.holding() as holding:
            holding.hold(10)
            raise ValueError("bad")
    assert (budget.held, unsettled(budget)) == (0, 0)


async def test_a_request_that_is_cancelled_while_it_waits_takes_nobodys_turn() -> None:
    budget = ByteBudget(100)
    first, gone, last = (Request(budget, 100) for _ in range(3))
    await settle()
    gone.task.cancel()
    await first.go()
    await settle()
    assert last.is_in
    await last.go()
    assert (budget.held, unsettled(budget)) == (0, 0)


async def test_a_request_that_is_cancelled_just_as_it_is_let_in_gives_its_turn_back() -> None:
    budget = ByteBudget(100)
    first, gone, last = (Request(budget, 100) for _ in range(3))
    await settle()
    first.gone.set()
    while budget.held:
        await asyncio.sleep(0)
    gone.task.cancel()
    await settle()
    assert not gone.is_in
    assert last.is_in
    await last.go()
    assert (budget.held, unsettled(budget)) == (0, 0)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (Media(b"12345", "s3://a/b"), 5),
        ({"audio": np.zeros(10, np.float32), "sampling_rate": 16_000}, 40),
        ({"images": [Image.new("RGB", (4, 5)), Image.new("L", (2, 2))], "prompt": "x" * 99}, 64),
        ({"pages": [{"image": None, "words": [{"text": "a"}]}]}, 0),
        ([b"123", (b"4",)], 4),
    ],
    ids=["media", "sound", "pictures", "a page without one", "bytes"],
)
def test_bytes_are_those_of_what_is_large(value: Any, count: int) -> None:
    assert bytes_in(value) == count


async def test_requests_of_a_slow_lane_hold_up_no_others() -> None:
    budget = ByteBudget(100, max_unsettled=2)
    slow = [Request(budget, 10, lane="children") for _ in range(4)]
    for one in slow:
        one.settling.clear()
    await settle()
    assert [one.is_in for one in slow] == [True, True, False, False]
    quick = Request(budget, 10)
    await settle()
    assert quick.is_in
    for one in (*slow, quick):
        one.settling.set()
        await one.go()
    assert (budget.held, unsettled(budget)) == (0, 0)
