"""Items in the order of their urgency, and among equals in the order in which they came."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

from engines.base import Urgency

T = TypeVar("T")


class UrgencyQueue(Generic[T]):
    """A queue whose first item is the most urgent; the smallest urgency goes first. Not thread-safe.

    A line for each urgency and a heap of the urgencies: where few differ, as without deadlines, an item costs
    the same however many there are, and none costs more than in a heap of items.
    """

    __slots__ = ("_count", "_lines", "_urgencies")

    def __init__(self) -> None:
        self._urgencies: list[Urgency] = []
        self._lines: dict[Urgency, deque[T]] = {}
        """None is empty: a line goes with its last item."""
        self._count = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._count

    def put(self, item: T, urgency: Urgency) -> None:
        """Add `item` behind all that are as urgent or more."""
        (self._lines.get(urgency) or self._new_line(urgency)).append(item)
        self._count += 1

    def put_back(self, item: T, urgency: Urgency) -> None:
        """Make `item`, which was the first when it was taken, the first again."""
        (self._lines.get(urgency) or self._new_line(urgency)).appendleft(item)
        self._count += 1

    @property
    def first_urgency(self) -> Urgency:
        """The urgency of the first item; there must be one."""
        return self._urgencies[0]

    def first(self) -> T:
        """Return the first item, which stays; there must be one."""
        return self._lines[self._urgencies[0]][0]

    def take(self) -> T:
        """Remove the first item and return it; there must be one."""
        urgency = self._urgencies[0]
        line = self._lines[urgency]
        item = line.popleft()
        if not line:
            heapq.heappop(self._urgencies)
            del self._lines[urgency]
        self._count -= 1
        return item

    def drain(self) -> list[T]:
        """Remove all items and return them in order."""
        return [self.take() for _ in range(self._count)]

    def _new_line(self, urgency: Urgency) -> deque[T]:
        line = self._lines[urgency] = deque()
        heapq.heappush(self._urgencies, urgency)
        return line
