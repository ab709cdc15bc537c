"""The threads in which engines block."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Self

from engines.run.job import Job

_MODELS = 16
"""Models that are loaded, and half of those that run, at once where no setting bounds their number."""


class EngineExecutors:
    """Gives each engine threads for models in memory, and others for those that have to be loaded.

    So engines never wait for each other, nor a model in memory for the loads of others. At most `max_models` (16
    where None) and two models of one engine are loaded at once, for a model in use may take memory beyond the budget.
    More would wait for a thread. Lives on one event loop; threads are made where none is idle.
    """

    def __init__(self, max_models: int | None, is_loaded: Callable[[Job], bool]) -> None:
        self._loads_at_once = (max_models or _MODELS) + 2
        self._is_loaded = is_loaded
        self._pools: dict[tuple[str, bool], ThreadPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what runs."""
        for pool in self._pools.values():
            pool.shutdown()

    def of(self, job: Job) -> Executor:
        """Return the threads for the next run on the model of `job`.

        Where the model leaves the memory before that begins, it is loaded in a thread for models in memory.
        """
        key = (job.engine, self._is_loaded(job))
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._pool(*key)
        return pool

    def _pool(self, engine: str, is_loaded: bool) -> ThreadPoolExecutor:
        # Each model runs in one thread at a time. In memory are those within the budget and those in use beyond it.
        size = 2 * self._loads_at_once if is_loaded else self._loads_at_once
        return ThreadPoolExecutor(size, f"{engine}-{'run' if is_loaded else 'load'}")
