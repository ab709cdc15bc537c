"""Bounds how many log lines of a kind are written in a time, and counts the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LineLimit:
    """At most `most` lines of a kind in `per_s` seconds; thread-safe. Callers choose few kinds: none is forgotten."""

    def __init__(self, most: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[str, tuple[float, int]] = {}
        """By kind: when its present time began, and the lines since."""
        self._left_out: dict[str, int] = {}

    def allows(self, kind: str) -> bool:
        """Return whether a line of `kind` may be written now; one that may not is counted."""
        now = self._clock()
        with self._lock:
            began, count = self._written.get(kind, (now, 0))
            if now - began >= self._per_s:
                began, count = now, 0
            self._written[kind] = (began, count + 1)
            if count < self._most:
                return True
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False

    def take_left_out(self) -> dict[str, int]:
        """Return how many lines of each kind were left out since the last call, without those of none."""
        with self._lock:
            left_out, self._left_out = self._left_out, {}
        return left_out
