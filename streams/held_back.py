"""Messages that came before there was room for them, until there is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from streams.acks import OrderedAcker, Place, Received
from streams.quick_path import Admitted

log = structlog.get_logger(__name__)

Start = Callable[[Received, str, Admitted], None]


class HeldBack:
    """Lines of messages, one for each partition, of which the acker lets each go on by itself.

    Lives on the event loop. The consumer fetches no more of a partition that has a line, so a line is a few
    fetches long at most.
    """

    def __init__(
        self,
        acker: OrderedAcker,
        *,
        is_current: Callable[[int], bool],
        start: Start,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """`start` begins work on a message that is tracked by now; it must not raise."""
        self._acker = acker
        self._is_current = is_current
        self._start = start
        self._on_fatal = on_fatal
        self._lines: dict[Place, deque[tuple[Received, str]]] = {}
        self._resuming: asyncio.Task[None] | None = None

    def has_line_before(self, message: Received) -> bool:
        """Return whether messages of the same partition wait already."""
        return bool(self._lines) and _place(message) in self._lines

    def add(self, message: Received, task: str) -> None:
        """Start work on a message of `task` when there is room, unless it is handed out again before."""
        place = _place(message)
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = deque()
            self._acker.hold_back(place)
        line.append((message, task))
        if self._resuming is None:
            self._resuming = asyncio.create_task(self._resume_all(), name="messages held back")

    async def close(self) -> None:
        """Start on nothing any more: the broker will deliver what waits again."""
        if self._resuming is not None:
            self._resuming.cancel()
            await asyncio.wait([self._resuming])

    async def _resume_all(self) -> None:
        try:
            while True:
                admitted: Admitted = {}
                for place, line in list(self._lines.items()):
                    self._resume(place, line, admitted)
                if not self._lines:
                    break
                await self._acker.progress()
        except Exception as error:
            log.critical("held_back_messages_stopped", exc_info=error)
            self._on_fatal(error)
        finally:
            self._resuming = None

    def _resume(self, place: Place, line: deque[tuple[Received, str]], admitted: Admitted) -> None:
        generation: int | None = None
        is_current = False
        while line:
            message, task = line[0]
            if message.generation != generation:
                generation = message.generation
                is_current = self._is_current(generation)
            if is_current:
                if not self._acker.track(message):
                    return
                self._start(message, task, admitted)
            line.popleft()
        del self._lines[place]
        self._acker.release(place)


def _place(message: Received) -> Place:
    return message.record.topic, message.record.partition
