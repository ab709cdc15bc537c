"""The byte budget: who waits, and when they go on."""

from __future__ import annotations

import asyncio

import pytest

from streams.memory import ByteBudget


async def test_requests_pass_while_less_than_the_budget_is_held() -> None:
    budget = ByteBudget(100)
    async with budget.holding() as first, budget.holding() as second:
        first.add(40)
        second.add(50)
        assert budget.held == 90
    assert budget.held == 0


async def test_a_request_waits_while_the_budget_is_spent_and_goes_on_when_some_is_freed() -> None:
    budget = ByteBudget(100)
    entered = asyncio.Event()

    async def enter() -> None:
        async with budget.holding():
            entered.set()

    async with budget.holding() as first:
        first.add(100)
        waiting = asyncio.create_task(enter())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not entered.is_set()
    await waiting
    assert entered.is_set()


async def test_what_a_failed_request_held_is_freed() -> None:
    budget = ByteBudget(10)
    with pytest.raises(ValueError, match="bad"):
        async with budget.holding() as holding:
            holding.add(10)
            raise ValueError("bad")
    assert budget.held == 0
