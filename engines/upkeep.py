"""A background thread that does what is due now and then, for as long as its owner lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakMethod

import structlog

log = structlog.get_logger(__name__)

_AFTER_A_FAILURE_S = 5.0


class Upkeep:
    """Calls a method of its owner again and again; thread-safe.

    The method returns how many seconds may pass until the next call. The thread keeps no owner alive, and
    ends with it. A call that raises is logged and does not end the thread.
    """

    def __init__(self, due: Callable[[], float], name: str) -> None:
        self._due = WeakMethod(due)
        self._name = name
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Start the thread where it does not run yet."""
        if self._started:
            return
        with self._lock:
            if not self._closed and self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._started = True

    def wake(self) -> None:
        """Let the next call be now."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, and wait for the call that is under way; not to be called by the method itself."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            due = self._due()
            if due is None:
                return
            try:
                pause_s = due()
            except BaseException:
                log.exception("upkeep_failed", name=self._name)
                pause_s = _AFTER_A_FAILURE_S
            del due
            if not self._closed:
                self._wake.wait(pause_s)
