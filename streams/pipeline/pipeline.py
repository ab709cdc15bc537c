"""Answers one request: resolve, fetch, preprocess, infer, postprocess; the same for Kafka, HTTP and Python."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from engines.base import Emit
from engines.deadlines import urgency_of
from engines.inference import InferenceManager
from engines.log_context import RequestName, working_on
from engines.run.prepared import Outcome, Prepared
from engines.run.results import failed_in, no_time, result_of
from handlers.errors import DeadlineExceeded, InferenceError, as_inference_error
from streams.faults import contained, was_cancelled
from streams.media import MediaFetcher
from streams.messages import Request
from streams.pipeline.byte_budget import ByteBudget, bytes_in
from streams.pipeline.dispatcher import Dispatcher
from streams.pipeline.slow_stages import HeldUp, SlowStageDetector

log = structlog.get_logger(__name__)
R = TypeVar("R")

_LOOK_UP_S = 60.0
"""What the registry and the libraries of an engine may take on top of what engines and handlers may."""


@dataclass(slots=True)
class _UnderWay:
    """How far a request has come, for whoever has to tell of its failure."""

    prepared: Prepared | None = None
    stage: str = "resolve"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits for an answer, and what it is told then."""

    seconds: float
    told: InferenceError


@dataclass(frozen=True, slots=True)
class Pools:
    """The threads that blocking stages run in, one pool a kind so that a slow kind starves no other."""

    registry: Executor
    stages: Executor
    """For stages of handlers without media that are slow, or hang."""
    decode: Executor
    children: Executor
    """For handlers that wait for child processes (`BaseModelHandler.waits_for_children`)."""


class Pipeline:
    """Turns requests into results; never raises for a request that fails.

    Lives on one event loop. Blocking stages run in `pools`, fetching in the fetcher's own threads and engine
    calls in the dispatcher's, so the loop stays free. Owns nothing it is given.
    """

    def __init__(
        self,
        *,
        manager: InferenceManager,
        fetcher: MediaFetcher,
        dispatcher: Dispatcher,
        pools: Pools,
        memory: ByteBudget,
        pace: SlowStageDetector | None = None,
        worker: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._manager = manager
        self._fetcher = fetcher
        self._dispatcher = dispatcher
        self._pools = pools
        self._memory = memory
        self.pace = pace or SlowStageDetector()
        self._worker = worker
        self._clock = clock
        self._wall_clock = wall_clock

    async def answer(
        self,
        request: Request,
        *,
        queue_s: float = 0.0,
        attempt: int = 1,
        emit: Emit | None = None,
        patience: Patience | None = None,
    ) -> dict[str, Any]:
        """Return the result for `request`, in the shape of the spec, success or failure.

        `queue_s` is how long the request lay in its topic or socket before this call. `emit` hears the answer
        as it grows, in a thread of the engine, where the engine can tell; a cancelled call stops the work.
        `patience` ends it as the request's own deadline does.
        """
        started = self._clock()
        under_way = _UnderWay()
        with working_on((request,)):
            outcome = await self._outcome(request, under_way, emit, patience)
        return self.result(
            request, under_way.prepared, outcome, started, queue_s, attempt, stage=under_way.stage
        )

    def result(
        self,
        request: Request,
        prepared: Prepared | None,
        outcome: Outcome,
        started: float,
        queue_s: float,
        attempt: int = 1,
        *,
        stage: str = "resolve",
    ) -> dict[str, Any]:
        """Return the result of a request that was begun at `started` and ended with `outcome`, and count it.

        A failed one ended in `stage`.
        """
        processing_s = self._clock() - started
        timings = prepared.timings if prepared else no_time()
        if isinstance(outcome, InferenceError):
            # A copy: where time ran out, the engine still works on the request, and counts.
            timings = failed_in(
                stage, timings, processing_s, running_s=prepared.running_s if prepared else 0.0
            )
        timings["queue"] = queue_s
        result = result_of(
            outcome,
            id=request.id,
            task=request.task,
            engine=prepared.engine if prepared else request.engine,
            model_name=request.model_name,
            model_version=prepared.model.version if prepared else None,
            processing_s=processing_s,
            timings=timings,
            metadata=request.metadata,
            attempt=attempt,
            worker=self._worker,
        )
        self._manager.outcomes.finished(result)
        return result

    async def finish(self, request: Request, prepared: Prepared, raw: dict[str, Any]) -> Outcome:
        """Return the task's output for the engine's raw result, or why there is none."""
        try:
            return await self._run_stage(prepared, "postprocess", self._manager.finish, raw)
        except Exception as error:  # noqa: BLE001 - the caller is told, and what is unexpected is logged
            return self.as_failure(request, error)

    def as_failure(self, request: Request, error: BaseException) -> InferenceError:
        """Return what the caller is told of `error`; one that nobody expected is logged."""
        if isinstance(error, InferenceError):
            return error
        log.error("request_failed_unexpectedly", id=request.id, task=request.task, exc_info=error)
        return as_inference_error(error)

    async def _outcome(
        self, request: Request, under_way: _UnderWay, emit: Emit | None, patience: Patience | None
    ) -> Outcome:
        """Return the task's output, or why there is none."""
        try:
            if patience is not None:
                return await self._run_within(patience, request, under_way, emit)
            return await self._run_until(request, under_way, emit)
        except asyncio.CancelledError as error:
            if was_cancelled():
                raise
            return self.as_failure(request, error)
        except Exception as error:  # noqa: BLE001 - the caller is told, and what is unexpected is logged
            return self.as_failure(request, error)

    async def _run_within(
        self, patience: Patience, request: Request, under_way: _UnderWay, emit: Emit | None
    ) -> Outcome:
        """Run a request for a caller who waits only so long."""
        try:
            async with asyncio.timeout(patience.seconds) as limit:
                return await self._run_until(request, under_way, emit)
        except TimeoutError:
            if not limit.expired():
                raise
            return patience.told  # returned, as it serves many requests and must hold on to nothing of one

    async def _run_until(self, request: Request, under_way: _UnderWay, emit: Emit | None) -> Outcome:
        """Run a request, until its deadline where it has one."""
        if request.deadline is None:
            return await self._run(request, under_way, emit)
        try:
            async with asyncio.timeout(self._seconds_left(request)) as limit:
                return await self._run(request, under_way, emit)
        except TimeoutError as error:
            raise (self._expired(request) if limit.expired() else error) from error

    async def _run(self, request: Request, under_way: _UnderWay, emit: Emit | None) -> Outcome:
        """Take a request through admission, fetch, preprocess, infer and postprocess."""
        under_way.prepared = prepared = await self._admit(request)
        prepared.request = RequestName(request.id, request.task, request.model_name)
        prepared.urgency = urgency_of(request.priority, request.deadline_at())
        if prepared.handler.media_fields:
            raw = await self._run_with_media(request, under_way, prepared, emit)
        else:
            under_way.stage = "preprocess"
            await self._run_stage(prepared, "preprocess", self._manager.preprocess, request.data)
            under_way.stage = "wait"
            raw = await self._dispatcher.run(prepared, emit)
        if isinstance(raw, InferenceError):
            return raw  # raised, it would hold on to these frames and all that they hold
        under_way.stage = "postprocess"
        return await self._run_stage(prepared, "postprocess", self._manager.finish, raw)

    async def _run_with_media(
        self, request: Request, under_way: _UnderWay, prepared: Prepared, emit: Emit | None
    ) -> Outcome:
        """Fetch and decode within the budget of memory, then infer."""
        fields = prepared.handler.media_fields
        under_way.stage = "wait"
        waits_for_children = prepared.handler.waits_for_children
        pool, lane = (self._pools.children, "children") if waits_for_children else (self._pools.decode, "")
        came = self._clock()
        async with self._memory.holding(prepared.urgency, lane) as holding:
            with self._dispatcher.coming(prepared):
                under_way.stage = "fetch"
                started = self._clock()
                prepared.timings["wait"] += started - came
                data = await self._fetcher.aresolve(
                    request.data, fields, deadline_s=self._seconds_left(request)
                )
                holding.hold(bytes_in([data.get(name) for name in fields]))
                fetched = self._clock()
                prepared.timings["fetch"] = fetched - started
                under_way.stage = "preprocess"
                preprocess = functools.partial(self._manager.preprocess, prepared, data)
                guarded = self._guarded(prepared, "preprocess", preprocess)
                await self._in(pool, guarded)
                for_a_thread = self._clock() - fetched - prepared.timings["preprocess"]
                prepared.timings["wait"] += max(0.0, for_a_thread)
                del data, preprocess, guarded  # what was fetched may go, now that it is decoded
                holding.settle(bytes_in(prepared.inputs))
            under_way.stage = "wait"
            return await self._dispatcher.run(prepared, emit)

    async def _admit(self, request: Request) -> Prepared:
        def admit() -> Prepared:
            return self._manager.admit(
                task=request.task,
                engine=request.engine,
                model_name=request.model_name,
                data=request.data,
                options=request.options,
            )

        if self._manager.admits_at_once(request.engine, request.model_name):
            with contextlib.suppress(HeldUp):
                if self.pace.is_quick(request.task, "admit"):
                    return self.pace.run(request.task, "admit", admit)
        return await self._in(
            self._pools.registry,
            functools.partial(
                self._manager.guarded,
                f"admission to task {request.task}",
                request.task,
                request.model_name,
                admit,
                more_s=_LOOK_UP_S,
            ),
        )

    async def _run_stage(
        self, prepared: Prepared, stage: str, call: Callable[[Prepared, Any], R], argument: Any
    ) -> R:
        """Run a stage that has no media to decode: here, unless this handler has proved to be slow at it."""
        handler = type(prepared.handler)
        if self.pace.is_quick(handler, stage):
            with contextlib.suppress(HeldUp):
                return self.pace.run(handler, stage, call, prepared, argument)
        there = functools.partial(call, prepared, argument)
        return await self._in(self._pools.stages, self._guarded(prepared, stage, there))

    def _guarded(self, prepared: Prepared, stage: str, call: Callable[[], R]) -> Callable[[], R]:
        what, task, model_name = f"{stage} of task {prepared.task}", prepared.task, prepared.model.name
        return functools.partial(self._manager.guarded, what, task, model_name, call)

    async def _in(self, pool: Executor, call: Callable[[], R]) -> R:
        # Along with the context, in which log lines find the request they are about.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(contained, call))

    def _seconds_left(self, request: Request) -> float | None:
        deadline = request.deadline_at()
        if deadline is None:
            return None
        left = deadline - self._wall_clock()
        if left <= 0:
            raise self._expired(request)
        return left

    def _expired(self, request: Request) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the deadline {request.deadline} has passed; send the request earlier or with a later deadline"
        )
