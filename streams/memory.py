"""A budget for the bytes of media that requests in work hold in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Holding:
    """What one request holds of the budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0

    def add(self, count: int) -> None:
        """Count `count` more bytes as held; never waits, since they are in memory already."""
        self.held += count
        self._budget.held += count


class ByteBudget:
    """Lets a request fetch its media only while those in work hold less than `max_bytes`.

    A size is known only once the bytes are here, so what is being fetched at the same moment may exceed the
    budget by as much as one object per fetching thread. Lives on one event loop.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[Holding]:
        """Wait until there is room, then count what the body adds until it ends."""
        async with self._freed:
            await self._freed.wait_for(lambda: self.held < self.max_bytes)
        holding = Holding(self)
        try:
            yield holding
        finally:
            self.held -= holding.held
            async with self._freed:
                self._freed.notify_all()
