"""Ends a long-running process: drained at the first signal, at once at the second, and within its time limit."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, Self

from handlers.logger import get_logger

log = get_logger(__name__)

EXIT_FAILED = 1
EXIT_INTERRUPTED_TWICE = 130

_CLOSING_S = 5.0
"""Longest time for closing once nothing can be lost any more, in seconds."""
_CLOSING_TIMED_OUT = "closing_timed_out"
_EXIT_S = 1.0
"""Longest time for the interpreter to end after that, in seconds."""
_START_S = 10.0
"""Longest time to end a process that has not started yet, as imported code hangs, in seconds."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class _Limit:
    """When the process ends though something hangs, with which status, the event that says so, and the error untold."""

    at: float
    status: int
    event: str
    error: str = ""


class Stopping:
    """The request to stop this process, and the time limit that ends it even if a broker, store, engine or loop
    hangs.

    The first SIGTERM or SIGINT, `request` or `fail` asks the process to stop within `drain_timeout_s`. After `settle`
    nothing can be lost any more: only closing may follow, for a few seconds, and what hangs then is abandoned. A
    thread that waits for nothing else keeps the limit. Made and left on the main thread, on a running event loop.
    """

    def __init__(self, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._loop = asyncio.get_running_loop()
        self._requested: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._failed: asyncio.Future[BaseException] = self._loop.create_future()
        self._limits: queue.SimpleQueue[_Limit | None] = queue.SimpleQueue()
        self._limit: _Limit | None = None
        self._is_starting = True
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        threading.Thread(target=_keep, args=(self._limits,), name="exit in time", daemon=True).start()
        for number in _SIGNALS:
            # Not the loop's own handlers: a blocked loop has to stop as well.
            self._handlers_before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the signal handlers; a limit that is set stays, for the rest of the process."""
        for number, before in self._handlers_before.items():
            signal.signal(number, before)
        if self._limit is None:
            self._limits.put(None)

    @property
    def is_requested(self) -> bool:
        """Whether the process has to stop."""
        return self._limit is not None

    @property
    def remaining_s(self) -> float:
        """Seconds until the process is ended by force; infinite while it need not stop."""
        return float("inf") if self._limit is None else max(0.0, self._limit.at - time.monotonic())

    async def requested(self) -> BaseException | None:
        """Return once the process has to stop: the error, or None for a signal."""
        return await asyncio.shield(self._requested)

    @property
    def has_failed(self) -> bool:
        """Whether draining is of no use any more."""
        return self._failed.done()

    def request(self, reason: BaseException | None) -> None:
        """Ask the process to drain and to stop, unless it is stopping already; `reason` is None for a signal."""
        if not self.is_requested:
            self._set_drain_limit()
        if not self._requested.done():
            self._requested.set_result(reason)

    def fail(self, error: BaseException) -> None:
        """Ask the process to stop because of `error` without draining; draining that has begun is broken off."""
        if not self._failed.done():
            self._failed.set_result(error)
        self.request(error)

    def settle(self, status: int = 0, error: BaseException | None = None) -> None:
        """Note that nothing can be lost any more: the process ends with `status` in a few seconds, closed or not. If
        it is ended so, its last line tells `error`."""
        told = "" if error is None else str(error) or repr(error)
        self._set(_Limit(time.monotonic() + _CLOSING_S, status, _CLOSING_TIMED_OUT, told))

    def closed(self, status: int = 0) -> None:
        """Note that everything is closed: the process ends at once, whatever its threads wait for."""
        self._set(_Limit(time.monotonic() + _EXIT_S, status, "threads_left_behind"))

    async def until_requested(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the process has to stop; raises what `work` raises."""
        doing = asyncio.create_task(work)
        await _first_of(doing, self._requested)
        self._is_starting = False
        if self.is_requested:
            self._set_drain_limit()
        if doing.done():
            doing.result()
        else:
            await _break_off(doing)

    async def until_failed(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work`, which `fail` breaks off; raises that error, or what `work` raises."""
        doing = asyncio.create_task(work)
        await _first_of(doing, self._failed)
        if not doing.done():
            await _break_off(doing)
        if self._failed.done():
            raise self._failed.result()
        doing.result()

    async def courtesy(self, work: Coroutine[Any, Any, object], *, share: float) -> None:
        """Run work that does not matter any more; abandon it where it takes this share of the remaining time.

        It is not cancelled then: work that ignores the cancel would be waited for.
        """
        doing = asyncio.create_task(work)
        await asyncio.wait({doing}, timeout=share * min(self.remaining_s, _CLOSING_S))
        if doing.done() and not doing.cancelled() and (error := doing.exception()) is not None:
            log.warning("not_closed", error=repr(error))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # A signal handler interrupts any code, so it must not take a lock: other code logs and starts things.
        if self.is_requested:
            self._limits.put(_Limit(0.0, EXIT_INTERRUPTED_TWICE, "killed_by_second_signal"))
            return
        self._set_drain_limit()
        self._loop.call_soon_threadsafe(self._on_first_signal, signal.Signals(number).name)

    def _on_first_signal(self, name: str) -> None:
        log.info("stopping", signal=name)
        self.request(None)

    def _set_drain_limit(self) -> None:
        limit_s = min(self._drain_timeout_s, _START_S) if self._is_starting else self._drain_timeout_s
        self._set(_Limit(time.monotonic() + limit_s, EXIT_FAILED, "drain_timed_out"))

    def _set(self, limit: _Limit) -> None:
        self._limit = limit
        self._limits.put(limit)


async def _first_of(*waited: asyncio.Future[Any]) -> None:
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)


async def _break_off(doing: asyncio.Task[Any]) -> None:
    """Cancel `work`, and abandon it if it does not end."""
    doing.cancel()
    await asyncio.wait({doing}, timeout=_CLOSING_S / 2)
    if doing.done() and not doing.cancelled() and (error := doing.exception()) is not None:
        log.warning("broke_off_with_an_error", error=repr(error))


def run_to_exit(main: Coroutine[Any, Any, int]) -> int:
    """Return what `main` returns, on a separate event loop.

    What breaks the loop off while `main` still runs, such as a SystemExit in a callback, ends the process with
    EXIT_FAILED: nothing would be answered any more, and no signal heeded.
    """
    import uvloop

    is_over = False

    async def noted() -> int:
        nonlocal is_over
        try:
            return await main
        finally:
            is_over = True

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(noted())
        except BaseException as error:
            if is_over:
                raise
            log.critical("event_loop_broken_off", exc_info=error)
            exit_now(EXIT_FAILED)


def exit_now(code: int) -> NoReturn:
    """End the process without any further word of its threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _keep(limits: queue.SimpleQueue[_Limit | None]) -> None:
    """End the process at the latest limit that was set, unless None comes first."""
    latest = limits.get()
    while latest is not None:
        limit = latest
        try:
            latest = limits.get(timeout=max(0.0, limit.at - time.monotonic()))
        except queue.Empty:
            main = threading.main_thread()
            threads = [one.name for one in threading.enumerate() if one is not main and not one.daemon]
            if threads or limit.status or limit.event == _CLOSING_TIMED_OUT:
                tell = log.critical if limit.status else log.warning
                tell(limit.event, threads=threads, **({"error": limit.error} if limit.error else {}))
            exit_now(limit.status)
