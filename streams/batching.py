"""Micro-batches: requests that one model can run together share one engine call."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import structlog

from handlers.errors import Cancelled, InferenceError, as_inference_error

log = structlog.get_logger(__name__)


class Batchable(Protocol):
    """What a request must tell to be batched."""

    @property
    def lane_key(self) -> Hashable:
        """Requests with one lane key use one model, which runs one batch at a time."""

    @property
    def batch_key(self) -> Hashable:
        """Requests with one batch key may share a batch."""


T = TypeVar("T", bound=Batchable)


@dataclass(slots=True)
class Outcome:
    """What became of one request in its batch; times in seconds."""

    raw: dict[str, Any] | InferenceError
    wait_s: float
    batch_size: int


@dataclass(slots=True)
class _Waiting(Generic[T]):
    item: T
    future: asyncio.Future[Outcome]
    since: float


@dataclass(slots=True)
class _Lane(Generic[T]):
    waiting: deque[_Waiting[T]] = field(default_factory=deque)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Batcher(Generic[T]):
    """Collects requests per model and runs them in batches on a thread pool.

    Lives on one event loop; `execute` runs in the executor's threads, one call at a time per model. A batch
    leaves when it is full or when its first request has waited `max_wait_s` with the model idle; while the
    model works, what arrives gathers for the next batch. `execute` returns one outcome per item, in order.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[T]], Sequence[dict[str, Any] | InferenceError]],
        *,
        executor: Executor,
        max_items: int,
        max_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self._executor = executor
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._lanes: dict[Hashable, _Lane[T]] = {}

    async def submit(self, item: T) -> Outcome:
        """Return what the engine made of `item`; an awaiting caller that is cancelled is left out of the batch."""
        lane = self._lanes.setdefault(item.lane_key, _Lane())
        waiting = _Waiting(item, asyncio.get_running_loop().create_future(), self._clock())
        lane.waiting.append(waiting)
        if len(lane.waiting) >= self._max_items:
            lane.full.set()
        if lane.task is None:
            lane.task = asyncio.create_task(
                self._work(item.lane_key, lane), name=f"batches of {item.lane_key}"
            )
        return await waiting.future

    @property
    def depth(self) -> int:
        """How many requests wait for a batch."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    async def close(self) -> None:
        """Let the running batches finish; what still waits ends as Cancelled."""
        for lane in self._lanes.values():
            while lane.waiting:
                stopped = Cancelled("the worker stopped before this request ran; send it again")
                _resolve(lane.waiting.popleft(), Outcome(stopped, 0.0, 0))
        await asyncio.gather(*(lane.task for lane in self._lanes.values() if lane.task))

    async def _work(self, key: Hashable, lane: _Lane[T]) -> None:
        while lane.waiting:
            await self._let_batch_fill(lane)
            batch = self._take(lane)
            if batch:
                await self._run(batch)
        del self._lanes[key]

    async def _let_batch_fill(self, lane: _Lane[T]) -> None:
        """Wait until a batch is full or the oldest request has waited its time."""
        lane.full.clear()
        left = lane.waiting[0].since + self._max_wait_s - self._clock()
        if len(lane.waiting) < self._max_items and left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lane.full.wait(), left)

    def _take(self, lane: _Lane[T]) -> list[_Waiting[T]]:
        """Take the oldest request and those that may share its batch, leaving the others in their order."""
        batch: list[_Waiting[T]] = []
        passed_over: deque[_Waiting[T]] = deque()
        while lane.waiting and len(batch) < self._max_items:
            waiting = lane.waiting.popleft()
            if waiting.future.done():  # its caller has gone
                continue
            if not batch or waiting.item.batch_key == batch[0].item.batch_key:
                batch.append(waiting)
            else:
                passed_over.append(waiting)
        passed_over.extend(lane.waiting)
        lane.waiting = passed_over
        return batch

    async def _run(self, batch: list[_Waiting[T]]) -> None:
        started = self._clock()
        loop = asyncio.get_running_loop()
        raws: Sequence[dict[str, Any] | InferenceError]
        try:
            raws = await loop.run_in_executor(
                self._executor, self._execute, [waiting.item for waiting in batch]
            )
            if len(raws) != len(batch):
                raise RuntimeError(f"the engine returned {len(raws)} outcomes for {len(batch)} requests")
        except Exception as error:
            log.exception("batch_failed", items=len(batch))
            raws = [as_inference_error(error)] * len(batch)
        for waiting, raw in zip(batch, raws, strict=True):
            _resolve(waiting, Outcome(raw, started - waiting.since, len(batch)))


def _resolve(waiting: _Waiting[Any], outcome: Outcome) -> None:
    if not waiting.future.done():
        waiting.future.set_result(outcome)
