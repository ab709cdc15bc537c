"""Messages that came before there was room for them, until there is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from engines.log_context import shared_task
from engines.run.job import Alike
from handlers.logger import get_logger
from streams.delivery.crash_guard import CrashGuard
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Record, TopicPartition
from streams.faults import supervised

log = get_logger(__name__)

Line = deque[tuple[Fetched, int, str]]
"""Fetches in order; how many messages of each are started, and its task."""

Start = Callable[[Record, str, Alike], None]


class Backlog:
    """Lines of messages, one for each partition, of which tracker and guard let each go on by itself.

    Lives on the event loop. The consumer fetches no more of a partition that has a line, so a line is a few
    fetches long at most.
    """

    def __init__(
        self,
        tracker: OffsetTracker,
        guard: CrashGuard,
        *,
        is_current: Callable[[int], bool],
        start: Start,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """`start` begins work on a message that is tracked by now; it must not raise."""
        self._tracker = tracker
        self._guard = guard
        self._is_current = is_current
        self._start = start
        self._on_fatal = on_fatal
        self._lines: dict[TopicPartition, Line] = {}
        self._resuming: asyncio.Task[None] | None = None

    def enter(self, fetched: Fetched, task: str, alike: Alike) -> None:
        """Start work on the messages of a fetch, in order, as far as there is room, and on the others when there is.

        Those that are handed out again meanwhile are left to their next owner.
        """
        place = fetched.place
        line = self._lines.get(place)
        if line is None:
            started = self._begin(fetched, 0, task, alike)
            if started == len(fetched.records):
                return
            line = self._lines[place] = deque()
            self._tracker.hold_back(place)
        else:
            started = 0
        line.append((fetched, started, task))
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
                alike: Alike = {}
                for place, line in list(self._lines.items()):
                    self._resume(place, line, alike)
                if not self._lines:
                    break
                await self._tracker.progress()
        except Exception as error:
            log.critical("held_back_messages_stopped", exc_info=error)
            self._on_fatal(error)
        finally:
            self._resuming = None

    def _resume(self, place: TopicPartition, line: Line, alike: Alike) -> None:
        while line:
            fetched, started, task = line.popleft()
            started = self._begin(fetched, started, task, alike)
            if started < len(fetched.records):
                line.appendleft((fetched, started, task))
                return
        del self._lines[place]
        self._tracker.release(place)

    def _begin(self, fetched: Fetched, started: int, task: str, alike: Alike) -> int:
        """Start work on more messages, as many as there is room for; return how many are started or dropped by now."""
        records = fetched.records
        if not self._is_current(fetched.generation):
            return len(records)
        if started == 0:
            self._tracker.enter(fetched)
        count = self._tracker.track(fetched, started, self._guard.room(fetched, started))
        for message in records[started : started + count]:
            self._start(message, task, alike)
        return started + count
