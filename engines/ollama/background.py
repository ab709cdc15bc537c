"""An event loop in a thread of its own, for engines that wait for many answers at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from handlers.errors import EngineUnavailable

T = TypeVar("T")
CleanUp = Callable[[], Coroutine[Any, Any, None]]

_STOP_TIMEOUT_S = 10.0


class BackgroundLoop:
    """Runs coroutines for callers of any thread; its one thread starts with the first of them.

    `close`, or dropping the object, cancels what runs, awaits `clean_up` in the loop and ends the thread.
    """

    def __init__(self, name: str, *, clean_up: CleanUp) -> None:
        self._name = name
        self._clean_up = clean_up
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], Any] = lambda: None
        self.is_closed = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work` and return its future, whose cancellation cancels it.

        Raises:
            EngineUnavailable: retryable; the loop is closed.
        """
        with self._lock:
            if self.is_closed:
                work.close()
                raise EngineUnavailable(f"engine {self._name} is closed; send the request again")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop, self._clean_up), name=f"{self._name} loop", daemon=True
                )
                self._thread.start()
                self._stop = stop = weakref.finalize(self, _stop, self._loop)
                stop.atexit = False  # the thread is a daemon; waking it while Python shuts down helps nobody
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Take no more work, cancel what runs and return when the thread has ended; harmless when repeated."""
        with self._lock:
            self.is_closed = True
            self._stop()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # already closed
        loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop, clean_up: CleanUp) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        unfinished = asyncio.all_tasks(loop)
        for task in unfinished:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*unfinished, return_exceptions=True))
        loop.run_until_complete(clean_up())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
