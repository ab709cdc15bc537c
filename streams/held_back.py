"""Messages that came before there was room for them, until there is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from engines.log_context import shared_task
from streams.acks import OrderedAcker, Place, Received
from streams.faults import supervised
from streams.quick_path import Admitted

log = structlog.get_logger(__name__)

Line = deque[tuple[Sequence[Received], int, str]]
"""Messages in order, by fetches; how many of each fetch are started, and its task."""

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
        self._lines: dict[Place, Line] = {}
        self._resuming: asyncio.Task[None] | None = None

    def enter(self, messages: Sequence[Received], task: str, admitted: Admitted) -> None:
        """Start work on messages of `task`, in order, as far as there is room, and on the others when there is.

        They are of one partition and generation; those that are handed out again meanwhile are left to whoever
        gets them.
        """
        place = (messages[0].topic, messages[0].partition)
        line = self._lines.get(place)
        started = self._begin(messages, 0, task, admitted) if line is None else 0
        if started == len(messages):
            return
        if line is None:
            line = self._lines[place] = deque()
            self._acker.hold_back(place)
        line.append((messages, started, task))
        if self._resuming is None:
            self._resuming = supervised(shared_task(self._resume_all(), name="messages held back"))

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

    def _resume(self, place: Place, line: Line, admitted: Admitted) -> None:
        while line:
            messages, started, task = line.popleft()
            started = self._begin(messages, started, task, admitted)
            if started < len(messages):
                line.appendleft((messages, started, task))
                return
        del self._lines[place]
        self._acker.release(place)

    def _begin(self, messages: Sequence[Received], started: int, task: str, admitted: Admitted) -> int:
        """Start work on more messages, as many as there is room for; return how many are started now, or let go."""
        if not self._is_current(messages[0].generation):
            return len(messages)
        count = self._acker.track(messages, started)
        for message in messages[started : started + count]:
            self._start(message, task, admitted)
        return started + count
