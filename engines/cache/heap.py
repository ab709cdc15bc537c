"""Gives memory that the C library's heap keeps for later back to the machine, when nobody needs it.

Source: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from engines.cache.model_cache import ModelCache
from engines.native_environment import c_library
from engines.periodic_task import PeriodicTask
from handlers.logger import get_logger

log = get_logger(__name__)

_STATM = Path("/proc/self/statm")
_LOOK_S = 2.0
_SHORTEST_PAUSE_S = 10.0
_WORTH_IT = 64 * 1024**2
"""Bytes that the process must have grown by since it last gave memory back, where no model has left."""


def give_back() -> None:
    """Give back what is free in the heap; takes up to some tenths of a second, in which Python runs on."""
    trim = getattr(c_library(), "malloc_trim", None)
    if trim is not None:  # other C libraries keep less
        trim(0)


def resident_bytes() -> int:
    """Return the memory that this process takes, 0 where that cannot be told."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class HeapTrimmer:
    """Gives memory back when a burst of requests is over, and when models have left. Thread-safe.

    It waits until no model has been used for some seconds: memory that the next request takes again would only
    have to be cleared by the kernel. At most once in ten seconds.
    """

    def __init__(
        self,
        cache: ModelCache,
        *,
        give_back: Callable[[], None] = give_back,
        resident: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._give_back = give_back
        self._resident = resident
        self._clock = clock
        self._looking = PeriodicTask(self.tend, "heap")
        self._uses = -1
        self._least = resident()
        """Bytes that the process took after it last gave memory back."""
        self._most_of_models = 0
        self._given_at = -_SHORTEST_PAUSE_S

    def start(self) -> None:
        """Start to look."""
        self._looking.start()

    def close(self) -> None:
        """Look no more."""
        self._looking.close()

    def tend(self) -> float:
        """Give memory back where that is due; return the seconds until the next look."""
        uses, models = self._cache.hits + self._cache.misses, self._cache.bytes
        is_quiet = uses == self._uses and not self._cache.is_in_use()
        self._uses, self._most_of_models = uses, max(self._most_of_models, models)
        if is_quiet and self._clock() - self._given_at >= _SHORTEST_PAUSE_S:
            before = self._resident()
            if models < self._most_of_models or before - self._least >= _WORTH_IT:
                self._give_back()
                self._least, self._most_of_models = self._resident(), models
                self._given_at = self._clock()
                log.debug("memory_given_back", bytes=before - self._least)
        return _LOOK_S
