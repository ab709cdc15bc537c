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
    """Runs coroutines for callers of any thread; its thread starts with the first of them.

    `close`, or deleting the object, cancels running work, awaits `clean_up` in the loop and ends the thread.
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
        """Start `work` and return its future; cancelling the future cancels the work.

        Work that `close` cuts off, begun or not, ends with EngineUnavailable: the future is cancelled only by its
        caller. It ends with an InferenceError for any exception of `work`.

        Raises:
            EngineUnavailable: retryable; the loop is closed.
        """
        answer: Future[T] = Future()
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
                stop.atexit = False  # the thread is a daemon; waking it while Python shuts down is of no use
            self._loop.call_soon_threadsafe(_start, work, answer, self._name)
            return answer

    def close(self) -> None:
        """Take no more work, cancel what runs and return when the thread has ended; idempotent."""
        with self._lock:
            self.is_closed = True
            self._stop()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)


def _start(work: Coroutine[Any, Any, T], answer: Future[T], name: str) -> None:
    """Run `work` as a task of the running loop; the end of the task and of `answer` end each other."""
    if answer.cancelled():
        work.close()
        return
    loop = asyncio.get_running_loop()
    task = loop.create_task(_contained(work))

    def on_done(done: asyncio.Task[T | InferenceError]) -> None:
        work.close()  # the work has not begun where its task was cancelled before
        if not answer.set_running_or_notify_cancel():
            return
        found = _cut_off(name) if done.cancelled() else done.result()
        if isinstance(found, InferenceError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def on_answer(ended: Future[T]) -> None:
        if ended.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the task with it
                loop.call_soon_threadsafe(task.cancel)

    task.add_done_callback(on_done)
    answer.add_done_callback(on_answer)


async def _contained(work: Coroutine[Any, Any, T]) -> T | InferenceError:
    """Return what `work` returns, or an InferenceError for its exception; only a cancel of its task is raised."""
    try:
        return await work
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        if not isinstance(error, InferenceError):
            log.error("background_work_failed", exc_info=error)
        return as_inference_error(error)


def _cut_off(name: str) -> EngineUnavailable:
    return EngineUnavailable(f"engine {name} was closed meanwhile; send the request again")


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
