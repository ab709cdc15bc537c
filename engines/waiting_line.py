"""Who waits for room, and who is next: the most urgent, and among equals the first that came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engines.base import Urgency
from engines.urgency_queue import UrgencyQueue


class WaitingLine:
    """Waits in the order of urgency; whoever owns it calls the next when there is room. Lives on one event loop."""

    def __init__(self) -> None:
        self._waiting: UrgencyQueue[asyncio.Future[None]] = UrgencyQueue()

    def __bool__(self) -> bool:
        """Return whether anybody is in line."""
        self._drop_who_left()
        return bool(self._waiting)

    async def wait(self, urgency: Urgency, *, unused: Callable[[], None]) -> None:
        """Return when called; `unused` takes back the room of a caller who is cancelled at that very moment."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(turn, urgency)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                unused()
            raise

    def call_next(self) -> bool:
        """Have the next return from `wait`; False where nobody is in line."""
        self._drop_who_left()
        if not self._waiting:
            return False
        self._waiting.take().set_result(None)
        return True

    def _drop_who_left(self) -> None:
        while self._waiting and self._waiting.first().done():
            self._waiting.take()
