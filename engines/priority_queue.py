"""Priority queue, waiting line and semaphore: the most urgent first; among equals, the one that came first."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from engines.base import Urgency

T = TypeVar("T")


class PriorityQueue(Generic[T]):
    """A queue whose first item is the most urgent; the smallest urgency goes first. Not thread-safe."""

    __slots__ = ("_heap", "_newest", "_oldest")

    def __init__(self) -> None:
        self._heap: list[tuple[Urgency, int, T]] = []
        self._oldest = self._newest = 0
        """Numbers that order equal urgencies; they are unique, so items are never compared."""

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._heap)

    def put(self, item: T, urgency: Urgency) -> None:
        """Add `item` after all that are at least as urgent."""
        self._newest += 1
        heapq.heappush(self._heap, (urgency, self._newest, item))

    def put_back(self, item: T, urgency: Urgency) -> None:
        """Make `item`, which was taken as the first, the first again."""
        self._oldest -= 1
        heapq.heappush(self._heap, (urgency, self._oldest, item))

    @property
    def first_urgency(self) -> Urgency:
        """The urgency of the first item; there must be one."""
        return self._heap[0][0]

    def first(self) -> T:
        """Return the first item, which stays; there must be one."""
        return self._heap[0][2]

    def take(self) -> T:
        """Remove the first item and return it; there must be one."""
        return heapq.heappop(self._heap)[2]

    def drain(self) -> list[T]:
        """Remove all items and return them in order."""
        return [self.take() for _ in range(len(self))]


class WaitingLine:
    """Callers that wait in the order of urgency; the owner calls the next when there is room. Lives on one event
    loop."""

    def __init__(self) -> None:
        self._waiting: PriorityQueue[asyncio.Future[None]] = PriorityQueue()

    def __bool__(self) -> bool:
        """Return whether any caller waits."""
        while self._waiting and self._waiting.first().done():  # those who left
            self._waiting.take()
        return bool(self._waiting)

    async def wait(self, urgency: Urgency, *, unused: Callable[[], None]) -> None:
        """Return when called; `unused` is called if the caller is cancelled at that moment, and takes the room back."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(turn, urgency)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                unused()
            raise

    def call_next(self) -> bool:
        """Let the next caller return from `wait`; return False where none waits."""
        if not self:
            return False
        self._waiting.take().set_result(None)
        return True


class PrioritySemaphore:
    """A semaphore that admits the most urgent first. Lives on one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line = WaitingLine()

    @asynccontextmanager
    async def held(self, urgency: Urgency) -> AsyncIterator[None]:
        """Wait for one of its places, and hold it during the body."""
        if self._free:
            self._free -= 1
        else:
            await self._line.wait(urgency, unused=self._give_back)
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """Hand the place to the next in line, or free it."""
        if not self._line.call_next():
            self._free += 1
