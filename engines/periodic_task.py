"""A background thread that calls a method again and again, for as long as its owner lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakMethod

from engines.log_context import failures_logged
from handlers.logger import get_logger

log = get_logger(__name__)

_AFTER_A_FAILURE_S = 5.0


class PeriodicTask:
    """Calls a method of its owner again and again, which returns the seconds until the next call; thread-safe. The
    thread does not keep the owner alive, and ends with it. A call that raises is logged and ends nothing."""

    def __init__(self, task: Callable[[], float], name: str) -> None:
        self._task = WeakMethod(task)
        self._name = name
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> None:
        """Start the thread where it does not run yet; raises RuntimeError or MemoryError where there is none."""
        if self._thread is not None:
            return
        with self._lock:
            if not self._closed and self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread  # where there is none now, a later call may start it

    def wake(self) -> None:
        """Make the next call now."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, and wait for a call under way; the method itself must not call this."""
        with self._lock:
            self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            task = self._task()
            if task is None:
                return
            pause_s = _AFTER_A_FAILURE_S
            with failures_logged(log, "periodic_task_failed", name=self._name):
                pause_s = task()
            del task
            if not self._closed:
                self._wake.wait(pause_s)
