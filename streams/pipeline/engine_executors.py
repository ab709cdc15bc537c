"""The threads in which engines run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Self

from engines.run.job import Job

_MODELS = 16
"""How many models load at once, and half of how many run, where no setting bounds the number of models."""


class EngineExecutors:
    """Gives each engine threads for models in memory, and others for models that must load first.

    So engines never wait for each other, nor a model in memory for loads of others. `max_models` (16 where None) and
    two more models of one engine load at once, as models in use may exceed the budget; further loads wait for a
    thread. Lives on one event loop; a thread is made where none is idle.
    """

    def __init__(self, max_models: int | None, is_loaded: Callable[[Job], bool]) -> None:
        self._loads_at_once = (max_models or _MODELS) + 2
        self._is_loaded = is_loaded
        self._pools: dict[tuple[str, bool], ThreadPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for running calls."""
        for pool in self._pools.values():
            pool.shutdown()

    def of(self, job: Job) -> Executor:
        """Return the threads for the next run of the model of `job`.

        If the model leaves the memory before that begins, it is loaded in a thread for models in memory.
        """
        engine, is_loaded = key = (job.engine_name, self._is_loaded(job))
        if key not in self._pools:
            # Each model runs in one thread at a time. In memory are those within the budget and those in use beyond it.
            size = 2 * self._loads_at_once if is_loaded else self._loads_at_once
            self._pools[key] = ThreadPoolExecutor(size, f"{engine}-{'run' if is_loaded else 'load'}")
        return self._pools[key]
