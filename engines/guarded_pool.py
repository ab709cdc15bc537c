"""A pool of threads that are replaced when they hang."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from engines.guard import Guard
from engines.guarded_call import Call
from engines.lease import nothing

P = ParamSpec("P")
T = TypeVar("T")


class GuardedPool(Executor):
    """Runs up to `size` calls at once in threads of `guard`, others in order after them; thread-safe.

    Stages of a call (`Guard.call` with `is_stage`) run in its thread. Where one is silent for too long, the future ends
    with GivenUp, and another thread takes the place of the one that hangs, which ends with the stage: it begins no
    other one. Between stages a call may be silent. Calls have the context of `submit`.
    """

    def __init__(self, guard: Guard, size: int, name: str) -> None:
        """`name` is that of the threads."""
        self._guard = guard
        self._size = size
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[Call[Any]] = deque()
        self._running = 0
        self._is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the outcome of a call that runs as soon as there is room.

        Raises:
            RuntimeError: permanent; the pool is closed.
        """
        call = Call[T](partial(fn, *args, **kwargs), thread_name=self._name, told=self._ended)
        future = call.future
        with self._changed:
            if self._is_closed:
                raise RuntimeError(f"the threads {self._name} take no calls any more")
            self._waiting.append(call)
            self._begin()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait, if so asked, until all have ended or are given up."""
        with self._changed:
            self._is_closed = True
            if cancel_futures:
                for call in self._waiting:
                    call.future.cancel()
            if wait:
                self._changed.wait_for(lambda: not self._running)

    def _ended(self) -> None:
        with self._changed:
            self._running -= 1
            self._begin()
            self._changed.notify_all()

    def _begin(self) -> None:
        while self._waiting and self._running < self._size:
            call = self._waiting.popleft()
            if call.future.set_running_or_notify_cancel():
                try:
                    self._guard.start(call)
                    self._running += 1
                except BaseException as error:  # noqa: BLE001 - there is no thread; the caller is told
                    call.told = nothing
                    call.tell(error)
