"""A memory budget for the media, fetched and decoded, of requests in work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engines.base import NO_HURRY, Urgency
from engines.priority_queue import WaitingLine
from handlers.media import Media


class Holding:
    """The bytes of the budget that one request holds."""

    def __init__(self, budget: ByteBudget, lane: _Lane) -> None:
        self._budget = budget
        self._lane = lane
        self.held = 0
        self.is_settled = False

    def hold(self, count: int) -> None:
        """Count `count` bytes as held from now on, instead of those before. Never waits: they are in memory already."""
        self._budget.held += count - self.held
        self.held = count

    def settle(self, count: int) -> None:
        """Count `count` bytes as held until the end: no more will come, so the next request may begin."""
        self.hold(count)
        if not self.is_settled:
            self.is_settled = True
            self._lane.unsettled -= 1
        self._budget.let_in()


class _Lane:
    """Requests of one kind: how many have no known size yet, and which wait."""

    def __init__(self) -> None:
        self.unsettled = 0
        self.line = WaitingLine()


class ByteBudget:
    """Lets requests fetch media only while all requests in work hold less than `max_bytes`.

    The size of a request is known when its media are decoded. At most `max_unsettled` requests of each lane have no
    known size at a time, so only that many of the largest media can exceed the budget. The most urgent request of a
    lane goes first, and lanes take turns, so a slow lane delays no other. Lives on one event loop.
    """

    def __init__(self, max_bytes: int, max_unsettled: int = 16) -> None:
        self.max_bytes = max_bytes
        self.max_unsettled = max_unsettled
        self.held = 0
        self._lanes: dict[str, _Lane] = {}

    @asynccontextmanager
    async def holding(self, urgency: Urgency = NO_HURRY, lane: str = "") -> AsyncIterator[Holding]:
        """Wait for room; the bytes that the body then holds are freed when it ends."""
        its = self._lanes.setdefault(lane, _Lane())
        holding = Holding(self, its)
        if self._has_room(its) and not its.line:
            its.unsettled += 1
        else:
            await its.line.wait(urgency, unused=lambda: holding.settle(0))
        try:
            yield holding
        finally:
            holding.settle(0)

    def let_in(self) -> None:
        """Let waiting requests begin, as far as there is room."""
        while any(self._calls_next(name) for name in list(self._lanes)):
            pass

    def _calls_next(self, name: str) -> bool:
        lane = self._lanes[name]
        if not self._has_room(lane) or not lane.line.call_next():
            return False
        lane.unsettled += 1
        self._lanes[name] = self._lanes.pop(name)  # the turn of the other lanes
        return True

    def _has_room(self, lane: _Lane) -> bool:
        return self.held < self.max_bytes and lane.unsettled < self.max_unsettled


def bytes_in(value: Any) -> int:
    """Return the bytes of media, arrays and images in `value`, at any depth of lists and objects."""
    match value:
        case dict():
            return sum(map(bytes_in, value.values()))
        case list() | tuple():
            return sum(map(bytes_in, value))
        case Media():
            return len(value.content)
        case bytes():
            return len(value)
    if hasattr(value, "nbytes"):  # an array or a tensor
        return int(value.nbytes)
    if hasattr(value, "getbands"):  # a picture of PIL
        return int(value.width * value.height * len(value.getbands()))
    return 0
