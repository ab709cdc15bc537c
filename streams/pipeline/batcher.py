"""Micro-batching: requests that one model can run together share one engine call, the most urgent first."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from engines.guard import GivenUp
from engines.guarded_call import was_left
from engines.log_context import shared_task
from engines.run.executor import OnOutcome
from engines.run.job import Job, Outcome
from handlers.errors import Cancelled, as_inference_error, counted
from handlers.logger import get_logger
from streams.faults import report_fault, supervised
from streams.pipeline.batch_queue import BatchEntry, BatchQueue

log = get_logger(__name__)

_WORTH_WAITING = 0.1
"""The part of a model's last run for which a batch may wait for requests on their way: a larger batch saves more."""

_TURN_S = 0.001
"""The most time that several batches may take together in one turn of a thread; the turn itself costs a third of it."""

_MOST_REMEMBERED = 256
"""How many models' speeds are remembered while they have nothing to do: versions come and go for years."""

_MOST_IN_A_TURN = 4
"""Most batches in one turn: the model may have become slower, and the first is answered after the last."""


class _Awaited(BatchEntry):
    """Hands the outcome to a future; does nothing where the waiting caller has gone."""

    future: asyncio.Future[Outcome] = msgspec.field(default_factory=asyncio.Future)

    def go_on(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


@dataclass(slots=True)
class _Speed:
    """How long a model took lately."""

    last_turn_s: float = 0.0
    batch_s: float | None = None
    """The time of its last batch, None before the first. It falls by half at most: a model that fails a batch at
    once is not quick."""


class Batcher:
    """Collects jobs per model and runs them in batches, in threads.

    Lives on one event loop. `execute` runs in the threads that `threads` returns for the first job, one call at a
    time per model. An idle model starts at once, unless requests for it are on their way (`coming`). Then a batch
    waits until they have arrived, or it is full, or its first request has waited `max_wait_s` or a tenth of the
    model's last turn, whichever is longer. While the model works, new requests collect for the next batch. Batches
    are formed in the order of urgency. Several batches of a model that takes microseconds run in one turn of its
    thread. `execute` returns one outcome per job, in order. Outcomes that it passes to its callback before are
    reported at once.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Job], OnOutcome], Sequence[Outcome]],
        *,
        threads: Callable[[Job], Executor],
        max_items: int,
        max_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self._threads = threads
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._lanes: dict[Hashable, BatchQueue] = {}
        self._speed_of = lru_cache(_MOST_REMEMBERED)(lambda _key: _Speed())

    @contextlib.contextmanager
    def coming(self, lane_key: Hashable) -> Iterator[None]:
        """Note during the body that a request is on its way to `submit`, so that a batch may wait for it."""
        lane = self._lane(lane_key)
        lane.coming += 1
        try:
            yield
        finally:
            lane.coming -= 1
            if not lane.coming:
                lane.may_leave.set()
            self._drop_if_idle(lane_key, lane)

    async def submit(self, job: Job) -> Outcome:
        """Return the engine's raw result for `job`; if the caller is cancelled, the batch leaves it out."""
        entry = _Awaited(job)
        self.put(entry)
        try:
            return await entry.future
        finally:
            entry.is_over = True

    def put(self, entry: BatchEntry) -> None:
        """Have a job run in a batch; its `go_on` is called with the outcome, unless it `is_over` by then."""
        key = entry.job.lane_key
        lane = self._lanes.get(key) or self._lane(key)
        entry.since = self._clock()
        lane.put(entry)
        if lane.task is None:
            lane.task = supervised(shared_task(self._work(key, lane), name=f"batches of {key}"))

    @property
    def depth(self) -> int:
        """How many requests wait for a batch; other threads may ask."""
        return sum(map(len, list(self._lanes.values())))

    async def close(self) -> None:
        """Let running batches finish; requests that still wait end as Cancelled."""
        lanes = list(self._lanes.values())
        for lane in lanes:
            for entry in lane.drain():
                stopped = Cancelled("the worker stopped before this request ran; send it again")
                _answer(entry, stopped, entry.since)
            lane.may_leave.set()
        await asyncio.gather(*(lane.task for lane in lanes if lane.task))

    def _lane(self, key: Hashable) -> BatchQueue:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = BatchQueue(self._max_items)
        return lane

    def _drop_if_idle(self, key: Hashable, lane: BatchQueue) -> None:
        if not lane.coming and not lane and lane.task is None and self._lanes.get(key) is lane:
            del self._lanes[key]

    async def _work(self, key: Hashable, lane: BatchQueue) -> None:
        while lane:
            await self._let_batch_fill(key, lane)
            batches = self._next(key, lane)
            if batches:
                started = self._clock()
                await self._run(key, batches)
                self._speed_of(key).last_turn_s = self._clock() - started
        lane.task = None
        self._drop_if_idle(key, lane)

    async def _let_batch_fill(self, key: Hashable, lane: BatchQueue) -> None:
        """Wait for requests on their way, until a batch is full or the first request has waited its time."""
        if not lane.coming or lane.has_a_full_batch():
            return
        longest = max(self._max_wait_s, _WORTH_WAITING * self._speed_of(key).last_turn_s)
        left = lane.since + longest - self._clock()
        if left > 0:
            lane.may_leave.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lane.may_leave.wait(), left)

    def _next(self, key: Hashable, lane: BatchQueue) -> list[list[BatchEntry]]:
        """Take the next batch, and more batches where they are short, for one turn of the thread."""
        batch_s = self._speed_of(key).batch_s
        batch_s = _TURN_S if batch_s is None else batch_s
        most = max(1, int(min(_MOST_IN_A_TURN, _TURN_S / batch_s))) if batch_s else _MOST_IN_A_TURN
        batches: list[list[BatchEntry]] = []
        while lane and len(batches) < most:
            batches.append(lane.take())
        return [batch for batch in batches if batch]

    async def _run(self, key: Hashable, batches: list[list[BatchEntry]]) -> None:
        """Run the batches in one turn of a thread, and report all outcomes."""
        started = self._clock()
        loop = asyncio.get_running_loop()
        ran: list[tuple[Sequence[Outcome], float, float]] = []

        def run() -> None:
            for batch in batches:
                outcome = self._execute_one(batch, loop)
                if was_left():  # given up: that was told below, and the others run elsewhere
                    return
                ran.append(outcome)

        try:
            await loop.run_in_executor(self._threads(batches[0][0].job), run)
        except Exception as error:
            lost = batches[len(ran) :]
            if isinstance(error, GivenUp):
                lost = lost[:1]  # the others have not begun
            else:
                log.exception("batches_not_run", batches=len(lost))
            told = as_inference_error(error.with_traceback(None))
            ran += [([told] * len(batch), started, self._clock() - started) for batch in lost]
        speed = self._speed_of(key)
        speed.batch_s = max(*(took_s for _, _, took_s in ran), (speed.batch_s or 0.0) / 2)
        for batch, (outcomes, began, _) in zip(batches, ran, strict=False):
            for entry, outcome in zip(batch, outcomes, strict=True):
                _answer(entry, outcome, began)
        if left := batches[len(ran) :]:
            await self._run(key, left)

    def _execute_one(
        self, batch: list[BatchEntry], loop: asyncio.AbstractEventLoop
    ) -> tuple[Sequence[Outcome], float, float]:
        """Return the outcomes of a batch, when it began and how long it took."""
        began = self._clock()
        entries: dict[int, BatchEntry] = {}

        def early(job: Job, outcome: Outcome) -> None:
            if not entries:  # most batches end without an early answer
                entries.update((id(one.job), one) for one in batch)
            loop.call_soon_threadsafe(_answer, entries[id(job)], outcome, began)

        try:
            outcomes = self._execute([one.job for one in batch], early)
            if len(outcomes) != len(batch):
                raise RuntimeError(
                    f"the engine returned {counted(len(outcomes), 'outcome')} for {counted(len(batch), 'request')}"
                )
        except BaseException as error:
            log.exception("batch_failed", items=len(batch))
            outcomes = [as_inference_error(error)] * len(batch)
        return outcomes, began, self._clock() - began


def _answer(entry: BatchEntry, outcome: Outcome, began: float) -> None:
    """Report the outcome of an entry in the batch that began at that time, unless it was reported before."""
    if entry.is_over:
        return
    entry.is_over = True
    try:
        entry.job.timings["wait"] += began - entry.since
        entry.go_on(outcome)
    except BaseException as error:  # noqa: BLE001 - a fault of one caller is none of the others'
        report_fault(error, "the outcome of a request was not taken")
