"""Who is called next out of a waiting line."""

from __future__ import annotations

import asyncio
import math

from engines.base import NO_HURRY, Urgency
from engines.priority_queue import WaitingLine


class Line:
    """A line, and in which order its people were called."""

    def __init__(self) -> None:
        self.line = WaitingLine()
        self.called: list[str] = []
        self.unused: list[str] = []

    async def join(self, name: str, urgency: Urgency = NO_HURRY) -> asyncio.Task[None]:
        async def wait() -> None:
            await self.line.wait(urgency, unused=lambda: self.unused.append(name))
            self.called.append(name)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return waiting

    async def call_all(self) -> None:
        while self.line.call_next():
            await asyncio.sleep(0)


async def test_priority_goes_first_then_the_deadline_then_who_came_first() -> None:
    line = Line()
    for name, urgency in [
        ("fifth", (-1, math.inf)),
        ("third", (-5, math.inf)),
        ("second", (-5, 10.0)),
        ("fourth", (-5, math.inf)),
        ("first", (-9, math.inf)),
    ]:
        await line.join(name, urgency)
    await line.call_all()
    assert line.called == ["first", "second", "third", "fourth", "fifth"]


async def test_nobody_is_called_out_of_an_empty_line() -> None:
    line = Line()
    assert not line.line
    assert not line.line.call_next()


async def test_who_left_is_not_in_line_and_is_not_called() -> None:
    line = Line()
    leaves = await line.join("leaves")
    assert line.line
    leaves.cancel()
    await asyncio.wait([leaves])
    assert not line.line
    await line.join("stays")
    await line.call_all()
    assert (line.called, line.unused) == (["stays"], [])


async def test_who_leaves_when_called_gives_its_room_back() -> None:
    line = Line()
    leaves = await line.join("leaves")
    assert line.line.call_next()
    leaves.cancel()  # it has not run since it was called
    await asyncio.wait([leaves])
    assert (line.called, line.unused) == ([], ["leaves"])
