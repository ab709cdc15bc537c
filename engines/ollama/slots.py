"""How many requests are under way at the server at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engines.base import Urgency
from engines.waiting_line import WaitingLine


class Slots:
    """A semaphore that lets the most urgent in first, and among equals the first that came.

    Lives on one event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._line = WaitingLine()

    @asynccontextmanager
    async def held(self, urgency: Urgency) -> AsyncIterator[None]:
        """Wait for a slot, and hold it during the body."""
        if self._free:
            self._free -= 1
        else:
            await self._line.wait(urgency, unused=self._give_back)
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """Hand a slot to whoever is next, or keep it free."""
        if not self._line.call_next():
            self._free += 1
