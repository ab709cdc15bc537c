"""Hands jobs to their engine, in batches or one by one, and has the threads in which engines run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Self
from weakref import WeakValueDictionary

from engines.guard import Guard
from engines.guarded_pool import GuardedPool
from engines.run.executor import Execution
from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher

_MODELS = 16
"""How many models load at once, and half of how many run, where no setting bounds the number of models."""


class Dispatcher:
    """Runs a request in the way its engine takes requests of that task."""

    def __init__(self, execution: Execution, batcher: Batcher, threads: Callable[[Job], Executor]) -> None:
        """`threads` returns the threads in which a request is started: that blocks while its model loads."""
        self._execution = execution
        self._batcher = batcher
        self._threads = threads
        self._starting: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def coming(self, job: Job) -> contextlib.AbstractContextManager[None]:
        """Note during the body that `job` is on its way to `run`, so that its batch may wait for it."""
        return contextlib.nullcontext() if job.is_continuous else self._batcher.coming(job.lane_key)

    async def run(self, job: Job) -> Outcome:
        """Return the engine's raw result for the request; if the caller is cancelled, the work for it stops."""
        if not job.is_continuous:
            return await self._batcher.submit(job)
        lock = self._starting.get(job.lane_key)
        if lock is None:
            lock = self._starting[job.lane_key] = asyncio.Lock()
        # One at a time for each model: requests that wait for one load must not block the threads of other models.
        # The lock is held until the model is loaded, even if the caller has gone: its thread is busy until then.
        await lock.acquire()
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(self._threads(job), self._execution.start, job, job.emit)
        starting.add_done_callback(lambda _: lock.release())
        try:
            started = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_stop_what_was_started)
            raise
        return await asyncio.wrap_future(started)


class EngineExecutors:
    """Gives each engine threads for models in memory, and others for models that must load first.

    So engines never wait for each other, nor a model in memory for loads of others. `max_models` (16 where None) and
    two more models of one engine load at once, as models in use may exceed the budget; further loads wait for a
    thread. Lives on one event loop; a thread is made where none is idle.
    """

    def __init__(self, max_models: int | None, is_loaded: Callable[[Job], bool], guard: Guard | None = None) -> None:
        self._guard = guard or Guard()
        self._loads_at_once = (max_models or _MODELS) + 2
        self._is_loaded = is_loaded
        self._pools: dict[tuple[str, bool], GuardedPool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for running calls, unless they hang."""
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
            self._pools[key] = GuardedPool(self._guard, size, f"{engine}-{'run' if is_loaded else 'load'}")
        return self._pools[key]


def _stop_what_was_started(starting: asyncio.Future[Future[Outcome]]) -> None:
    """Stop the work for a caller that left while its model loaded."""
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()
