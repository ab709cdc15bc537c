"""Queues fetched records of partitions whose window is full, and starts them when there is room."""

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
"""Fetches in order; for each, how many of its records are started, and its task."""

Start = Callable[[Record, str, Alike], None]


class Backlog:
    """One queue of records per partition; offset tracker and crash guard decide when each goes on.

    Lives on the event loop. The consumer pauses a partition that has a queue, so a queue holds a few fetches at most.
    """

    def __init__(
        self,
        tracker: OffsetTracker,
        guard: CrashGuard,
        *,
        is_current: Callable[[int], bool],
        enter: Callable[[Fetched], None],
        start: Start,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """`enter` is called with a fetch before its first record is tracked. `start` begins work on a tracked record;
        it must not raise."""
        self._tracker = tracker
        self._guard = guard
        self._is_current = is_current
        self._enter = enter
        self._start = start
        self._on_fatal = on_fatal
        self._lines: dict[TopicPartition, Line] = {}
        self._resuming: asyncio.Task[None] | None = None

    def enter(self, fetched: Fetched, task: str, alike: Alike) -> None:
        """Start work on the records of a fetch, in order, as far as there is room; queue the rest.

        Records whose partition is reassigned meanwhile are dropped: their next owner fetches them.
        """
        place = fetched.place
        line = self._lines.get(place)
        if line is None:
            started = self._begin(fetched, 0, task, alike)
            if started == len(fetched.records):
                return
            line = self._lines[place] = deque()
            self._tracker.held_back.add(place)
        else:
            started = 0
        line.append((fetched, started, task))
        if self._resuming is None:
            self._resuming = supervised(shared_task(self._resume_all(), name="messages held back"))

    async def close(self) -> None:
        """Start no more work; the broker will deliver the queued records again."""
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
        has_begun = False
        while line:
            fetched, before, task = line.popleft()
            started = self._begin(fetched, before, task, alike)
            has_begun |= started > before
            if started < len(fetched.records):
                line.appendleft((fetched, started, task))
                if has_begun:
                    # The others are next: while a partition is read with care, one begins at a time.
                    self._lines[place] = self._lines.pop(place)
                return
        del self._lines[place]
        self._tracker.release(place)

    def _begin(self, fetched: Fetched, started: int, task: str, alike: Alike) -> int:
        """Start work on as many records as there is room for; return how many are started or dropped by now."""
        records = fetched.records
        if not self._is_current(fetched.generation):
            return len(records)
        if started == 0:
            self._enter(fetched)
        count = self._tracker.track(fetched, started, self._guard.room(fetched, started))
        for message in records[started : started + count]:
            self._start(message, task, alike)
        return started + count
