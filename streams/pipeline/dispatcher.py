"""Hands jobs to their engine: in batches, or one by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from weakref import WeakValueDictionary

from engines.base import Emit
from engines.inference import InferenceManager
from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher


class Dispatcher:
    """Runs a request in the way its engine takes requests of that task."""

    def __init__(
        self,
        manager: InferenceManager,
        batcher: Batcher,
        threads: Callable[[Job], Executor],
    ) -> None:
        """`threads` returns the threads in which a request is started: that blocks while its model loads."""
        self._manager = manager
        self._batcher = batcher
        self._threads = threads
        self._starting: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def coming(self, job: Job) -> contextlib.AbstractContextManager[None]:
        """Note during the body that `job` is on its way to `run`, so that its batch may wait for it."""
        return contextlib.nullcontext() if job.is_continuous else self._batcher.coming(job.lane_key)

    async def run(self, job: Job, emit: Emit | None = None) -> Outcome:
        """Return the engine's raw result for the request; if the caller is cancelled, the work for it stops.

        `emit` is called in a thread of the engine with each piece of the answer, where the engine takes requests one
        by one; otherwise it is not called.
        """
        if job.is_continuous:
            return await self._run_as_it_comes(job, emit)
        return await self._batcher.submit(job)

    async def _run_as_it_comes(self, job: Job, emit: Emit | None) -> Outcome:
        lock = self._starting.get(job.lane_key)
        if lock is None:
            lock = self._starting[job.lane_key] = asyncio.Lock()
        # One at a time for each model: requests that wait for one load must not block the threads of other models.
        # The lock is held until the model is loaded, even if the caller has gone: its thread is busy until then.
        await lock.acquire()
        starting = asyncio.get_running_loop().run_in_executor(
            self._threads(job), self._manager.start, job, emit
        )
        starting.add_done_callback(lambda _: lock.release())
        try:
            started = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_stop_what_was_started)
            raise
        return await asyncio.wrap_future(started)


def _stop_what_was_started(starting: asyncio.Future[Future[Outcome]]) -> None:
    """Stop the work for a caller that left while its model loaded."""
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()
