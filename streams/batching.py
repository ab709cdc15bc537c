"""Micro-batches: requests that one model can run together share one engine call, the most urgent first."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

from engines.base import Urgency
from engines.urgency_queue import UrgencyQueue
from handlers.errors import Cancelled, InferenceError, as_inference_error

log = structlog.get_logger(__name__)

_WORTH_WAITING = 0.1
"""The part of a model's last run that a batch may wait for those who are coming: company saves more than that."""


class Batchable(Protocol):
    """What a request must tell to be batched."""

    @property
    def lane_key(self) -> Hashable:
        """Requests with one lane key use one model, which runs one batch at a time."""

    @property
    def batch_key(self) -> Hashable:
        """Requests with one batch key may share a batch."""

    @property
    def urgency(self) -> Urgency:
        """The smallest goes first; among equals, whoever came first."""

    @property
    def cost(self) -> float:
        """What this request takes of a batch, in the engine's own unit."""

    @property
    def most_cost(self) -> float:
        """What a batch with this request may take: its number of requests times the largest cost among them."""


T = TypeVar("T", bound=Batchable)


Raw = dict[str, Any] | InferenceError
"""What became of one request in its batch."""

Outcome = tuple[Raw, float]
"""That, and the seconds it waited for its batch."""

OnOutcome = Callable[[Raw, float], None]
"""Hears both of an outcome."""


class _Waiting(msgspec.Struct, Generic[T], eq=False):
    item: T
    since: float
    on_outcome: OnOutcome
    wanted: asyncio.Future[Outcome] | None
    """Done where whoever awaits the outcome has gone."""


@dataclass(slots=True)
class _Group(Generic[T]):
    """Requests that may share a batch."""

    waiting: UrgencyQueue[_Waiting[T]] = field(default_factory=UrgencyQueue)
    largest: float = 0.0
    """The largest cost that was ever among them."""

    def fills_a_batch(self, max_items: int) -> bool:
        count = len(self.waiting)
        return count >= max_items or count * self.largest >= self.waiting.first().item.most_cost


@dataclass(slots=True)
class _Lane(Generic[T]):
    """What waits for one model."""

    groups: dict[Hashable, _Group[T]] = field(default_factory=dict)
    coming: int = 0
    is_filling: bool = False
    """Whether a batch waits for those who are coming."""
    may_leave: asyncio.Event = field(default_factory=asyncio.Event)
    """Set where waiting longer would bring nothing: a batch is full, or nobody else is coming."""
    since: float = 0.0
    """When the first of those came who have waited for no batch yet."""
    task: asyncio.Task[None] | None = None


class Batcher(Generic[T]):
    """Collects requests per model and runs them in batches, in threads.

    Lives on one event loop; `execute` runs where `threads` says for the first item, one call at a time per
    model. An idle
    model starts at once, unless requests for it are known to be `coming`: then a batch waits until they are
    here, it is full, or its first request has waited `max_wait_s`, or a tenth of what the model's last batch
    took where that is longer. While the model works, what arrives gathers for the next batch. Batches are
    formed in the order of urgency. `execute` returns one outcome per item, in order.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[T]], Sequence[Raw]],
        *,
        threads: Callable[[T], Executor],
        max_items: int,
        max_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self._threads = threads
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._lanes: dict[Hashable, _Lane[T]] = {}
        self._last_run_s: dict[Hashable, float] = {}
        """Outlives the lanes, which come and go with their requests; one number for each model ever run."""

    @contextlib.contextmanager
    def coming(self, lane_key: Hashable) -> Iterator[None]:
        """Say that during the body a request is on its way to `submit`, so that a batch may wait for it."""
        lane = self._lanes.setdefault(lane_key, _Lane())
        lane.coming += 1
        try:
            yield
        finally:
            lane.coming -= 1
            if not lane.coming:
                lane.may_leave.set()
            self._drop_if_idle(lane_key, lane)

    async def submit(self, item: T) -> Outcome:
        """Return what the engine made of `item`; an awaiting caller that is cancelled is left out of the batch."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.put(item, functools.partial(_resolve, future), future)
        return await future

    def put(self, item: T, on_outcome: OnOutcome, wanted: asyncio.Future[Outcome] | None = None) -> None:
        """Call `on_outcome` on the event loop with what the engine made of `item`; it must not raise.

        Nothing is made of it where `wanted` is done by then: whoever awaits it has gone.
        """
        key = item.lane_key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        now = self._clock()
        waiting = _Waiting(item, now, on_outcome, wanted)
        if not lane.groups:
            lane.since = now
        group = lane.groups.get(item.batch_key)
        if group is None:
            group = lane.groups[item.batch_key] = _Group()
        group.waiting.put(waiting, item.urgency)
        if item.cost > group.largest:
            group.largest = item.cost
        if lane.is_filling and group.fills_a_batch(self._max_items):
            lane.may_leave.set()
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(key, lane), name=f"batches of {key}")

    @property
    def depth(self) -> int:
        """How many requests wait for a batch."""
        return sum(len(group.waiting) for lane in self._lanes.values() for group in lane.groups.values())

    async def close(self) -> None:
        """Let the running batches finish; what still waits ends as Cancelled."""
        lanes = list(self._lanes.values())
        for lane in lanes:
            for group in lane.groups.values():
                for waiting in group.waiting.drain():
                    stopped = Cancelled("the worker stopped before this request ran; send it again")
                    waiting.on_outcome(stopped, 0.0)
            lane.groups.clear()
            lane.may_leave.set()
        await asyncio.gather(*(lane.task for lane in lanes if lane.task))

    async def _work(self, key: Hashable, lane: _Lane[T]) -> None:
        while lane.groups:
            await self._let_batch_fill(key, lane)
            batch = self._take(lane)
            if batch:
                started = self._clock()
                await self._run(batch)
                self._last_run_s[key] = self._clock() - started
        lane.task = None
        self._drop_if_idle(key, lane)

    def _drop_if_idle(self, key: Hashable, lane: _Lane[T]) -> None:
        if not lane.coming and not lane.groups and lane.task is None and self._lanes.get(key) is lane:
            del self._lanes[key]

    async def _let_batch_fill(self, key: Hashable, lane: _Lane[T]) -> None:
        """Wait for those who are coming, until a batch is full or the first request has waited its time."""
        if not lane.coming or any(group.fills_a_batch(self._max_items) for group in lane.groups.values()):
            return
        longest = max(self._max_wait_s, _WORTH_WAITING * self._last_run_s.get(key, 0.0))
        left = lane.since + longest - self._clock()
        if left > 0:
            lane.may_leave.clear()
            lane.is_filling = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lane.may_leave.wait(), left)
            lane.is_filling = False

    def _take(self, lane: _Lane[T]) -> list[_Waiting[T]]:
        """Take the most urgent request and those, in order of urgency, that may share its batch."""
        if not lane.groups:  # all were told that the worker stops
            return []
        key, group = min(lane.groups.items(), key=_turn)
        queue = group.waiting
        batch: list[_Waiting[T]] = []
        largest = 0.0
        while queue and len(batch) < self._max_items:
            waiting = queue.first()
            if waiting.wanted is None or not waiting.wanted.done():
                cost = waiting.item.cost
                if cost > largest:
                    largest = cost
                if batch and (len(batch) + 1) * largest > waiting.item.most_cost:
                    break
                batch.append(waiting)
            queue.take()
        if not queue:
            del lane.groups[key]
        lane.since = -float("inf")  # whoever is left has waited for this batch
        return batch

    async def _run(self, batch: list[_Waiting[T]]) -> None:
        started = self._clock()
        loop = asyncio.get_running_loop()
        raws: Sequence[Raw]
        try:
            items = [waiting.item for waiting in batch]
            raws = await loop.run_in_executor(self._threads(items[0]), self._execute, items)
            if len(raws) != len(batch):
                raise RuntimeError(f"the engine returned {len(raws)} outcomes for {len(batch)} requests")
        except Exception as error:
            log.exception("batch_failed", items=len(batch))
            raws = [as_inference_error(error)] * len(batch)
        for waiting, raw in zip(batch, raws, strict=True):
            try:
                waiting.on_outcome(raw, started - waiting.since)
            except Exception:
                log.exception("outcome_not_taken")  # a fault of one caller is none of the others'


def _turn(group: tuple[Hashable, _Group[Any]]) -> tuple[Urgency, float]:
    """Return what the next group has the least of."""
    queue = group[1].waiting
    return queue.first_urgency, queue.first().since


def _resolve(future: asyncio.Future[Outcome], raw: Raw, wait_s: float) -> None:
    if not future.done():
        future.set_result((raw, wait_s))
