"""The queue of one model: which requests wait, and which go into its next batch."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import msgspec

from engines.base import Urgency
from engines.priority_queue import PriorityQueue
from engines.run.job import Job, Outcome


class BatchEntry(msgspec.Struct, eq=False):
    """A job that waits for its batch. Each kind of caller overrides `go_on`."""

    job: Job
    since: float = 0.0
    """When it began to wait; set by the batcher."""
    is_over: bool = False
    """Whether it was answered or given up: `go_on` is not called any more."""

    def go_on(self, outcome: Outcome) -> None:
        """Called on the event loop with the engine's raw result. Must not raise."""
        raise NotImplementedError


@dataclass(slots=True)
class _Group:
    """Jobs that may share a batch; what it takes is their number times the largest cost."""

    waiting: PriorityQueue[BatchEntry] = field(default_factory=PriorityQueue)
    largest: float = 0.0
    """The largest cost that was ever among them."""

    def fills_a_batch(self, max_items: int) -> bool:
        count = len(self.waiting)
        return count >= max_items or count * self.largest >= self.waiting.first().job.most_cost

    @property
    def turn(self) -> tuple[Urgency, float]:
        """The group with the smallest is next."""
        return self.waiting.first_urgency, self.waiting.first().since


class BatchQueue:
    """The requests that wait for one model, by the batches they may share, of up to `max_items` each.

    Lives on one event loop.
    """

    def __init__(self, max_items: int) -> None:
        self.coming = 0
        """How many requests are on their way to this queue."""
        self.may_leave = asyncio.Event()
        """Set where waiting longer is of no use: a batch is full, or no request is on its way."""
        self.since = 0.0
        """When the first of the requests came that have not waited for a batch yet."""
        self.task: asyncio.Task[None] | None = None
        """The task that runs the batches, while there are any."""
        self._max_items = max_items
        self._groups: dict[Hashable, _Group] = {}

    def __bool__(self) -> bool:
        """Return whether any request waits."""
        return bool(self._groups)

    def __len__(self) -> int:
        """Return how many requests wait; other threads may ask."""
        return sum(len(group.waiting) for group in list(self._groups.values()))

    def put(self, entry: BatchEntry) -> None:
        """Add a request."""
        job = entry.job
        if not self._groups:
            self.since = entry.since
        group = self._groups.get(job.batch_key)
        if group is None:
            group = self._groups[job.batch_key] = _Group()
        group.waiting.put(entry, job.urgency)
        if job.cost > group.largest:
            group.largest = job.cost
        if self.coming and group.fills_a_batch(self._max_items):
            self.may_leave.set()

    def has_a_full_batch(self) -> bool:
        """Return whether enough requests wait to fill a batch."""
        return any(group.fills_a_batch(self._max_items) for group in self._groups.values())

    def take(self) -> list[BatchEntry]:
        """Take the most urgent request and, in order of urgency, others that may share its batch.

        There must be one. Returns nothing where all have gone.
        """
        key, group = min(self._groups.items(), key=lambda one: one[1].turn)
        queue = group.waiting
        batch: list[BatchEntry] = []
        largest = 0.0
        for _ in range(len(queue)):
            entry = queue.take()
            if entry.is_over:
                continue
            job = entry.job
            if job.cost > largest:
                largest = job.cost
            if batch and (len(batch) + 1) * largest > job.most_cost:
                queue.put_back(entry, job.urgency)
                break
            batch.append(entry)
            if len(batch) == self._max_items:
                break
        if not queue:
            del self._groups[key]
        self.since = -math.inf  # the requests that are left have waited for this batch
        return batch

    def drain(self) -> list[BatchEntry]:
        """Take all requests."""
        entries = [entry for group in self._groups.values() for entry in group.waiting.drain()]
        self._groups.clear()
        return entries
