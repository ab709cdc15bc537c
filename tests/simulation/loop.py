"""An event loop with its own clock and a seeded choice of which worker goes on, where each can be frozen."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

OWNER: ContextVar[str] = ContextVar("owner", default="")
"""The worker that a callback is of; empty for what is of the world around."""

_MOST_STEPS = 1_000_000


class Stalled(Exception):
    """Raised where nothing will ever happen again, or time does not pass any more."""


class SeededLoop(asyncio.AbstractEventLoop):
    """Runs the callbacks of one worker in their order, and chooses at random which worker's turn it is.

    Time passes when nothing is left to do, and at once. A worker that is frozen has its callbacks kept for it.
    """

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.steps = 0
        self.frozen: set[str] = set()
        self.tasks: dict[str, set[asyncio.Task[Any]]] = {}
        """Those of each worker that are not done."""
        self.on_fault: Callable[[str, BaseException], None] = lambda owner, error: None
        """Hears what ended a task that nobody awaits."""
        self._rng = random.Random(seed)
        self._ready: dict[str, deque[asyncio.Handle]] = {}
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until `work` is done, then end all that is left; return what it returns."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            main = self.create_task(work)
            self._run_until(main)
            for task in [task for tasks in self.tasks.values() for task in tasks]:
                task.cancel()
            self.frozen.clear()
            while any(self.tasks.values()):
                if not self._turn():
                    self._pass_time()
            return main.result()
        finally:
            asyncio._set_running_loop(before)

    def _run_until(self, main: asyncio.Task[Any]) -> None:
        while not main.done():
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise Stalled(f"{_MOST_STEPS} steps and no end; it is {self.now:.3f} s")
            if not self._turn():
                self._pass_time()

    def _turn(self) -> bool:
        """Run one callback, and return whether there was one."""
        owners = [owner for owner in self._ready if owner not in self.frozen] if self.frozen else [*self._ready]
        if not owners:
            return False
        owner = owners[int(self._rng.random() * len(owners))]
        queue = self._ready[owner]
        handle = queue.popleft()
        if not queue:
            del self._ready[owner]
        if not handle._cancelled:
            handle._run()
        return True

    def _pass_time(self) -> None:
        if not self._timers:
            raise Stalled(f"nothing will happen after {self.now:.3f} s")
        self.now = max(self.now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if not timer._cancelled:
                self._put(timer)

    def _put(self, handle: asyncio.Handle) -> None:
        owner = handle._context.get(OWNER, "")  # type: ignore[attr-defined]
        queue = self._ready.get(owner)
        if queue is None:
            queue = self._ready[owner] = deque()
        queue.append(handle)

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._put(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, work: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        owner = OWNER.get()
        if context is None:
            context = copy_context()
        else:
            context.run(OWNER.set, owner)
        task = asyncio.Task(work, loop=self, name=name, context=context)
        self.tasks.setdefault(owner, set()).add(task)
        task.add_done_callback(self.tasks[owner].discard)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.on_fault(OWNER.get(), context.get("exception") or RuntimeError(context["message"]))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
