"""Returns free memory of the C library's heap to the system when the process is idle."""

from __future__ import annotations

import time
from collections.abc import Callable

from engines.cache.model_cache import ModelCache
from engines.periodic_task import PeriodicTask
from handlers.decoding.children.memory import resident_bytes, trim
from handlers.logger import get_logger

log = get_logger(__name__)

_LOOK_S = 2.0
_SHORTEST_PAUSE_S = 10.0
_WORTH_IT = 64 * 1024**2
"""Bytes by which the process must have grown since the last return, where no model was unloaded."""


class HeapTrimmer:
    """Returns memory once no model was used for some seconds after a burst of requests or an unload, at most once in
    ten seconds: the kernel has to clear what the next request takes again. Thread-safe."""

    def __init__(
        self,
        cache: ModelCache,
        *,
        give_back: Callable[[], None] = trim,
        resident: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.looking = PeriodicTask(self.tend, "heap")
        """Calls `tend` for as long as the trimmer is kept; the owner of that starts and closes it."""
        self._cache = cache
        self._give_back = give_back
        self._resident = resident
        self._clock = clock
        self._uses = -1
        self._least = resident()
        """Memory of the process after the last return, in bytes."""
        self._most_of_models = 0
        self._given_at = -_SHORTEST_PAUSE_S

    def tend(self) -> float:
        """Return memory where that is due; return the seconds until the next check."""
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
