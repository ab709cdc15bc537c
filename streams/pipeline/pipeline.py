"""Answers one request: resolve, fetch, preprocess, infer, postprocess; the same for Kafka, HTTP and Python."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from types import coroutine
from typing import Any, TypeVar

from engines.base import Emit, Urgency
from engines.deadlines import deadline_at, expired
from engines.inference import InferenceManager
from engines.log_context import RequestName, working_on
from engines.run.job import Alike, Job, Outcome, Walk
from engines.run.results import Result
from engines.run.stages import postprocess, preprocess
from handlers.errors import InferenceError
from streams.faults import contained, was_cancelled
from streams.media import MediaFetcher
from streams.messages import Request
from streams.pipeline.byte_budget import ByteBudget, bytes_in
from streams.pipeline.dispatcher import Dispatcher
from streams.pipeline.slow_stages import HeldUp, SlowStageDetector

R = TypeVar("R")

_LOOK_UP_S = 60.0
"""Time that the registry and the libraries of an engine may take, beyond that of engines and handlers."""

_URGENCIES: list[Urgency] = [(-priority, math.inf) for priority in range(10)]
"""Urgency by priority, without a deadline."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits for an answer, and the error it gets then."""

    seconds: float
    told: InferenceError


@dataclass(frozen=True, slots=True)
class Pools:
    """The threads of blocking stages, one pool per kind so that a slow kind starves no other."""

    registry: Executor
    stages: Executor
    """For stages of handlers without media that are slow or hang."""
    decode: Executor
    children: Executor
    """For handlers that wait for child processes (`BaseModelHandler.waits_for_children`)."""


class Wants(Enum):
    """What a walk without a task asks its driver for when it cannot go on."""

    BATCH = auto()
    """To be sent the engine's raw result for the job."""
    TASK = auto()
    """To be resumed in a task, as it must wait."""


class Pipeline(Walk):
    """Turns requests into results; never raises for a request that fails.

    Lives on one event loop. Blocking stages run in `pools`, fetching in the fetcher's threads and engine calls in the
    dispatcher's, so the loop stays free. Owns nothing it is given.
    """

    def __init__(
        self,
        *,
        manager: InferenceManager,
        fetcher: MediaFetcher,
        dispatcher: Dispatcher,
        pools: Pools,
        memory: ByteBudget,
        worker: str,
    ) -> None:
        super().__init__(manager.outcomes, worker)
        self._manager = manager
        self._fetcher = fetcher
        self._dispatcher = dispatcher
        self._pools = pools
        self._memory = memory
        self.slow_stages = SlowStageDetector()

    async def answer(
        self,
        request: Request,
        *,
        queue_s: float = 0.0,
        emit: Emit | None = None,
        patience: Patience | None = None,
    ) -> Result:
        """Return the result for `request`, success or failure.

        `queue_s` is how long the request waited in its topic or socket before this call. `emit` is called in a thread
        of the engine with each piece of the answer, where the engine streams. Cancelling the call stops the work.
        `patience` ends it as the request's own deadline does.
        """
        return await self.see_through(job_of(request, queue_s=queue_s, emit=emit), patience=patience)

    async def see_through(
        self, job: Job, walk: Awaitable[Outcome] | None = None, *, patience: Patience | None = None
    ) -> Result:
        """Run the walk of a job, which may have begun, to its result, in this task."""
        with working_on((job.name,)):
            try:
                outcome = await self._within(patience, job, walk)
            except asyncio.CancelledError as error:
                if was_cancelled():
                    job.is_given_up = True
                    raise
                return self.finish(job, error)
            except Exception as error:  # noqa: BLE001 - the caller is told, and what is unexpected is logged
                return self.finish(job, error)
            return self.finish(job, outcome)

    async def _within(self, patience: Patience | None, job: Job, walk: Awaitable[Outcome] | None) -> Outcome:
        """Run the walk until the caller's patience or the job's deadline ends, whichever is first."""
        left_s = _seconds_left(job)
        if left_s is not None and (patience is None or left_s <= patience.seconds):
            patience = Patience(left_s, expired())
        if patience is None:
            return await (walk or self.walk(job))
        try:
            async with asyncio.timeout(patience.seconds) as limit:
                return await (walk or self.walk(job))
        except TimeoutError:
            if not limit.expired():
                raise
            job.is_given_up = True
            # Returned, not raised: many requests share the object, so it must not refer to one of them.
            return patience.told

    async def _resolve(self, job: Job) -> None:
        asked = (job.task, job.engine_name, job.name.model_name)
        alike, has_options = job.alike, bool(job.options)
        job.alike = None  # it may soon refer to this job: a reference cycle
        if alike is not None and not has_options and (other := alike.get(asked)) is not None:
            job.resolve_as(other)
            return
        resolver = self._manager.resolver
        if resolver.resolves_at_once(job) and self.slow_stages.is_quick(job.task, "resolve"):
            try:
                self.slow_stages.run(job.task, "resolve", resolver.resolve, job)
            except HeldUp:
                pass
            else:
                if alike is not None and not has_options and not job.handler.options_in_data:
                    alike[asked] = job
                return
        await self._elsewhere(job, self._pools.registry, "resolve", partial(resolver.resolve, job), more_s=_LOOK_UP_S)

    @asynccontextmanager
    async def _room(self, job: Job) -> AsyncIterator[None]:
        await _with_task(job)
        came = time.perf_counter()
        lane = "children" if job.handler.waits_for_children else ""
        async with self._memory.holding(job.urgency, lane) as job.room:
            job.timings["wait"] += time.perf_counter() - came
            yield

    def _coming(self, job: Job) -> AbstractContextManager[None]:
        return self._dispatcher.coming(job)

    async def _fetch(self, job: Job) -> None:
        fields, started = job.handler.media_fields, time.perf_counter()
        job.data = await self._fetcher.aresolve(job.data, fields, deadline_s=_seconds_left(job))
        job.room.hold(bytes_in([job.data.get(name) for name in fields]))
        job.timings["fetch"] = time.perf_counter() - started

    async def _preprocess(self, job: Job) -> None:
        if not job.handler.media_fields:
            await self._stage(job, "preprocess", preprocess, job.data)
            return
        pool = self._pools.children if job.handler.waits_for_children else self._pools.decode
        came = time.perf_counter()
        await self._elsewhere(job, pool, "preprocess", partial(preprocess, job, job.data))
        job.timings["wait"] += max(0.0, time.perf_counter() - came - job.timings["preprocess"])
        job.room.settle(bytes_in(job.inputs))

    async def _run(self, job: Job) -> Outcome:
        if not (job.has_task or job.is_continuous):
            outcome: Outcome = await _until(Wants.BATCH)
            return outcome
        await _with_task(job)
        return await self._dispatcher.run(job)

    async def _postprocess(self, job: Job, raw: dict[str, Any]) -> dict[str, Any]:
        return await self._stage(job, "postprocess", postprocess, raw)

    async def _stage(self, job: Job, stage: str, call: Callable[[Job, Any], R], argument: Any) -> R:
        """Run a stage without media: on the event loop, unless this handler has proved to be slow there."""
        handler = type(job.handler)
        if self.slow_stages.is_quick(handler, stage):
            try:
                return self.slow_stages.run(handler, stage, call, job, argument)
            except HeldUp:
                pass
        return await self._elsewhere(job, self._pools.stages, stage, partial(call, job, argument))

    async def _elsewhere(
        self, job: Job, pool: Executor, stage: str, call: Callable[[], R], *, more_s: float = 0.0
    ) -> R:
        """Run a stage in a thread of `pool`; it is given up when its time is over."""
        await _with_task(job)
        guard = self._manager.guard
        limit_s = guard.patience.of(job.task, job.model_name) + more_s
        guarded = partial(guard.call, f"{stage} of task {job.task}", limit_s, call, is_stage=True)
        return await asyncio.get_running_loop().run_in_executor(pool, partial(contained, guarded))


def job_of(
    request: Request,
    *,
    queue_s: float,
    traceparent: str | None = None,
    emit: Emit | None = None,
    alike: Alike | None = None,
) -> Job:
    """Return a new job for `request`, which has a task and may wait unless it is one of several `alike`."""
    ends = deadline_at(request.deadline)
    priority = request.priority
    return Job(
        name=RequestName(request.id, request.task, request.model_name, traceparent),
        task=request.task,
        engine_name=request.engine,
        data=request.data,
        options=request.options,
        metadata=request.metadata,
        ends=ends,
        urgency=_URGENCIES[priority] if ends is None else (-priority, ends),
        queue_s=queue_s,
        emit=emit,
        has_task=alike is None or ends is not None,
        alike=alike,
    )


async def _with_task(job: Job) -> None:
    """Return when a task runs the job, so that it may wait."""
    if not job.has_task:
        await _until(Wants.TASK)


@coroutine
def _until(wants: Wants) -> Generator[Wants, Any, Any]:
    """Suspend the walk of a job that has no task, and return what its driver sends."""
    return (yield wants)


def _seconds_left(job: Job) -> float | None:
    """Return the seconds until the deadline of a job, None where it has none.

    Raises:
        DeadlineExceeded: retryable; it has passed.
    """
    if job.ends is None:
        return None
    left = job.ends - time.time()
    if left <= 0:
        raise expired()
    return left
