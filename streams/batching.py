"""Micro-batches: requests that one model can run together share one engine call, the most urgent first."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

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
    def urgency(self) -> tuple[float, float]:
        """The smallest goes first; among equals, whoever came first."""

    @property
    def cost(self) -> float:
        """What this request takes of a batch, in the engine's own unit."""

    @property
    def most_cost(self) -> float:
        """What a batch with this request may take: its number of requests times the largest cost among them."""


T = TypeVar("T", bound=Batchable)


class Outcome(msgspec.Struct):
    """What became of one request in its batch; times in seconds."""

    raw: dict[str, Any] | InferenceError
    wait_s: float
    batch_size: int


OnOutcome = Callable[[Outcome], None]


class _Waiting(msgspec.Struct, Generic[T], eq=False):
    item: T
    since: float
    on_outcome: OnOutcome
    future: asyncio.Future[Outcome] | None
    """Done where whoever awaits the outcome has gone."""

    @property
    def is_wanted(self) -> bool:
        return self.future is None or not self.future.done()


_Entry = tuple[tuple[float, float], int, _Waiting[T]]
"""Urgency, turn, and who waits: the smallest entry goes first."""


@dataclass(slots=True)
class _Group(Generic[T]):
    """Requests that may share a batch, as a heap."""

    entries: list[_Entry[T]] = field(default_factory=list)
    largest: float = 0.0
    """The largest cost that was ever among them."""

    def fills_a_batch(self, max_items: int) -> bool:
        count = len(self.entries)
        return count >= max_items or count * self.largest >= self.entries[0][2].item.most_cost


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
        execute: Callable[[Sequence[T]], Sequence[dict[str, Any] | InferenceError]],
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
        self._turns = itertools.count()

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
        self._put(item, functools.partial(_resolve, future), future)
        return await future

    def put(self, item: T, on_outcome: OnOutcome) -> None:
        """Call `on_outcome` on the event loop with what the engine made of `item`; it must not raise."""
        self._put(item, on_outcome, None)

    def _put(self, item: T, on_outcome: OnOutcome, future: asyncio.Future[Outcome] | None) -> None:
        key = item.lane_key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        now = self._clock()
        waiting = _Waiting(item, now, on_outcome, future)
        if not lane.groups:
            lane.since = now
        group = lane.groups.get(item.batch_key)
        if group is None:
            group = lane.groups[item.batch_key] = _Group()
        heapq.heappush(group.entries, (item.urgency, next(self._turns), waiting))
        if item.cost > group.largest:
            group.largest = item.cost
        if lane.is_filling and group.fills_a_batch(self._max_items):
            lane.may_leave.set()
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(key, lane), name=f"batches of {key}")

    @property
    def depth(self) -> int:
        """How many requests wait for a batch."""
        return sum(len(group.entries) for lane in self._lanes.values() for group in lane.groups.values())

    async def close(self) -> None:
        """Let the running batches finish; what still waits ends as Cancelled."""
        lanes = list(self._lanes.values())
        for lane in lanes:
            for group in lane.groups.values():
                for _, _, waiting in group.entries:
                    stopped = Cancelled("the worker stopped before this request ran; send it again")
                    waiting.on_outcome(Outcome(stopped, 0.0, 0))
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
        key, group = min(lane.groups.items(), key=lambda pair: pair[1].entries[0][:2])
        batch: list[_Waiting[T]] = []
        largest = 0.0
        while group.entries and len(batch) < self._max_items:
            waiting = group.entries[0][2]
            if waiting.is_wanted:
                largest = max(largest, waiting.item.cost)
                if batch and (len(batch) + 1) * largest > waiting.item.most_cost:
                    break
                batch.append(waiting)
            heapq.heappop(group.entries)
        if not group.entries:
            del lane.groups[key]
        lane.since = -float("inf")  # whoever is left has waited for this batch
        return batch

    async def _run(self, batch: list[_Waiting[T]]) -> None:
        started = self._clock()
        loop = asyncio.get_running_loop()
        raws: Sequence[dict[str, Any] | InferenceError]
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
                waiting.on_outcome(Outcome(raw, started - waiting.since, len(batch)))
            except Exception:
                log.exception("outcome_not_taken")  # a fault of one caller is none of the others'


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
