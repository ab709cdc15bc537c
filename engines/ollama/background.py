"""An event loop in a separate thread, for engines that wait for many answers at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from handlers.errors import EngineUnavailable, InferenceError, as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)

T = TypeVar("T")
CleanUp = Callable[[], Coroutine[Any, Any, None]]

_STOP_TIMEOUT_S = 10.0


class BackgroundLoop:
    """Runs coroutines for callers of any thread, in a thread that starts with the first of them. `close`, or deleting
    the object, cancels running work, awaits `clean_up` in the loop and ends the thread."""

    def __init__(self, name: str, *, clean_up: CleanUp) -> None:
        self._name = name
        self._clean_up = clean_up
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._stop: Callable[[], Any] = lambda: None
        self.is_closed = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work` and return its future; cancelling the future cancels the work.

        Work that `close` cuts off, begun or not, ends with EngineUnavailable: the future is cancelled only by its
        caller. It ends with an InferenceError for any exception of `work`.

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
                    target=_run, args=(self._loop, self._ending, self._clean_up), name=f"{self._name} loop", daemon=True
                )
                self._thread.start()
                self._stop = stop = weakref.finalize(self, _stop, self._loop)
                stop.atexit = False  # the thread is a daemon; waking it while Python shuts down is of no use
            return asyncio.run_coroutine_threadsafe(_contained(work, self._name, self._ending), self._loop)

    def close(self) -> None:
        """Take no more work, cancel what runs and return when the thread has ended; idempotent."""
        with self._lock:
            self.is_closed = True
            self._stop()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)


async def _contained(work: Coroutine[Any, Any, T], name: str, ending: threading.Event) -> T:
    """Return what `work` returns; raise an InferenceError for its exception, or a cancel by the caller of `submit`."""
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its caller may have gone
    try:
        return await work
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and task.cancelling():
            if not ending.is_set():
                raise
            raise EngineUnavailable(f"engine {name} was closed meanwhile; send the request again") from None
        if isinstance(error, InferenceError):
            raise
        log.error("background_work_failed", exc_info=error)
        raise as_inference_error(error) from None


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # already closed
        loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop, ending: threading.Event, clean_up: CleanUp) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()
        ending.set()
        runner.run(_end(clean_up))


async def _end(clean_up: CleanUp) -> None:
    """Cancel all work; it has begun by now, as its tasks are older than the one of this."""
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    await clean_up()
