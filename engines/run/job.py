"""One request from its check to its result, whether it came by Kafka, HTTP or Python."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any

import msgspec

from engines.base import NO_HURRY, BaseEngine, Emit, Urgency
from engines.log_context import RequestName
from engines.models.resolved_model import ModelKey, ResolvedModel
from engines.run.outcomes import Outcomes
from engines.run.results import Result, failed_in, no_time, result_of
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError, as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)

Outcome = dict[str, Any] | InferenceError
"""The outcome of a request: the raw result of its engine, the output of its task, or the error."""

Alike = dict[tuple[str, str, str], "Job"]
"""Resolved jobs of the same moment without options, by task, engine and model name: later ones reuse them."""

_BY_RESOLVE: Any = None
"""Set by `resolve`, before anything but `finish` reads it."""


class Job(msgspec.Struct, eq=False, kw_only=True):
    """One request from its check to its result; one thread at a time owns it."""

    name: RequestName
    """Its name in log lines of every thread."""
    task: str
    engine_name: str = ""
    """The engine that was asked for, then the one that answers."""
    data: dict[str, Any]
    """Dropped when the inputs are made of it."""
    options: dict[str, Any] = {}
    """As they came, then checked, by the handler's names."""
    metadata: Mapping[str, Any] | None = None
    ends: float | None = None
    """The earlier of deadline and timeout, in seconds since the epoch."""
    urgency: Urgency = NO_HURRY
    """The smallest goes first: most urgent priority, then earliest deadline."""
    queue_s: float = 0.0
    """How long it waited in its topic or socket before."""
    emit: Emit | None = None
    """Called with each piece of the answer, in a thread of the engine, where the engine streams."""
    has_task: bool = True
    """Whether it may wait: a task or a thread runs it alone."""
    alike: Alike | None = None
    """The jobs of the same moment, for `resolve`."""
    room: Any = None
    """Its part of the memory for media."""

    stage: str = "resolve"
    started: float = msgspec.field(default_factory=time.perf_counter)
    timings: dict[str, float] = msgspec.field(default_factory=no_time)
    """Seconds of each stage so far."""

    model: ResolvedModel = _BY_RESOLVE
    handler: BaseModelHandler = _BY_RESOLVE
    engine: BaseEngine = _BY_RESOLVE
    lane_key: ModelKey = _BY_RESOLVE
    """Requests with equal keys use one loaded model, which runs one batch at a time."""
    batch_key: tuple[str, ...] = ()
    """Requests with equal keys may share a batch."""
    claim: object = None
    """Keeps the model's version in memory for this request while a new one replaces it."""
    most_cost: float = math.inf
    """The largest cost of a batch, by `BaseEngine.max_cost`."""

    inputs: dict[str, Any] = {}
    cost: float = 0.0
    """What it takes of a batch, by `BaseEngine.cost`."""
    running_since: float | None = None
    """When the engine took it, by `time.perf_counter`; None before."""
    waits_in_engine: bool = False
    """Whether the engine took it, and has not begun with it."""
    is_given_up: bool = False
    """Whether no caller waits for it any more, so that the engine need not begin."""

    @property
    def model_name(self) -> str:
        """The model name as it was asked for; later without alias or version."""
        return self.name.model_name if self.model is _BY_RESOLVE else self.model.name

    @property
    def has_begun(self) -> bool:
        """Whether an engine works on it, or has worked on it."""
        return self.running_since is not None and not self.waits_in_engine

    @property
    def is_continuous(self) -> bool:
        """Whether the engine takes requests of this task one by one, not in batches."""
        return self.task in self.engine.continuous_tasks

    def resolve_as(self, other: Job) -> None:
        """Copy the resolution of `other`, which asked for the same without options."""
        self.engine_name, self.engine, self.options = other.engine_name, other.engine, {}
        self.model, self.handler = other.model, other.handler
        self.lane_key, self.batch_key = other.lane_key, other.batch_key
        self.claim, self.most_cost = other.claim, other.most_cost


class Walk(ABC):
    """Takes jobs through their stages; subclasses for Kafka and HTTP, and for Python, say how a stage runs.

    A walk suspends only where a stage does, so one whose stages block runs to its end at once.
    """

    def __init__(self, outcomes: Outcomes, worker: str | None = None) -> None:
        """`worker` is the name in results; None: that of this process."""
        self._outcomes = outcomes
        self._worker = worker

    async def walk(self, job: Job) -> Outcome:
        """Return the task's output or the error; exceptions are for `finish`."""
        await self._resolve(job)
        if job.handler.media_fields:
            job.stage = "wait"
            async with self._room(job):
                with self._coming(job):
                    job.stage = "fetch"
                    await self._fetch(job)
                    await self._decode(job)
                raw = await self._infer(job)
        else:
            await self._decode(job)
            raw = await self._infer(job)
        if isinstance(raw, InferenceError):
            return raw  # raised, it would keep these frames and their values in memory
        job.stage = "postprocess"
        return await self._postprocess(job, raw)

    def finish(self, job: Job, outcome: Outcome | BaseException) -> Result:
        """Return the result of a job that ended with `outcome` in its current stage, and count it.

        Raises:
            BaseException: `outcome`, where a signal to this process raised it.
        """
        if isinstance(outcome, BaseException) and not isinstance(outcome, InferenceError):
            log.error("request_failed_unexpectedly", id=job.name.id, task=job.task, exc_info=outcome)
            outcome = as_inference_error(outcome)
        processing_s = time.perf_counter() - job.started
        timings = job.timings
        if isinstance(outcome, InferenceError):
            # A copy: if time ran out, the engine still works on the request and changes its timings.
            running_s = 0.0 if job.running_since is None else time.perf_counter() - job.running_since
            timings = failed_in(job.stage, timings, processing_s, running_s=running_s)
        timings["queue"] = job.queue_s
        name = job.name
        result = result_of(
            outcome,
            id=name.id,
            task=str(name.task),  # from Python it may be anything
            engine=str(job.engine_name),
            model_name=str(name.model_name),
            model_version=None if job.model is _BY_RESOLVE else job.model.version,
            processing_s=processing_s,
            timings=timings,
            metadata=job.metadata,
            worker=self._worker,
        )
        self._outcomes.finished(result)
        return result

    async def _decode(self, job: Job) -> None:
        job.stage = "preprocess"
        try:
            await self._preprocess(job)
        finally:
            job.data = {}  # the fetched bytes are not needed any more: they are decoded

    async def _infer(self, job: Job) -> Outcome:
        job.stage = "wait"
        return await self._run(job)

    def _room(self, _job: Job) -> AbstractAsyncContextManager[None]:
        """Wait for memory for the media of a job; it is held during the block."""
        return nullcontext()

    def _coming(self, _job: Job) -> AbstractContextManager[None]:
        """Note during the block that a job is on its way to its engine."""
        return nullcontext()

    @abstractmethod
    async def _resolve(self, job: Job) -> None: ...

    @abstractmethod
    async def _fetch(self, job: Job) -> None:
        """Fetch the media of a job into its `data`."""

    @abstractmethod
    async def _preprocess(self, job: Job) -> None: ...

    @abstractmethod
    async def _run(self, job: Job) -> Outcome: ...

    @abstractmethod
    async def _postprocess(self, job: Job, raw: dict[str, Any]) -> dict[str, Any]: ...
