"""The queue of one model: which requests wait, and which go into its next batch."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from engines.base import Urgency
from engines.priority_queue import PriorityQueue
from handlers.errors import InferenceError


class Batchable(Protocol):
    """A request that can be batched."""

    @property
    def lane_key(self) -> Hashable:
        """Requests with one lane key use one model, which runs one batch at a time."""

    @property
    def batch_key(self) -> Hashable:
        """Requests with one batch key may share a batch."""

    @property
    def urgency(self) -> Urgency:
        """The smallest goes first; among equals, the one that came first."""

    @property
    def cost(self) -> float:
        """What this request takes of a batch, in the unit of its engine."""

    @property
    def most_cost(self) -> float:
        """What a batch with this request may take: number of requests times largest cost."""


T = TypeVar("T", bound=Batchable)

Raw = dict[str, Any] | InferenceError
"""The raw result of a request in its batch, or its error."""

Outcome = tuple[Raw, float]
"""A `Raw`, and the seconds that the request waited for its batch."""

OnOutcome = Callable[[Raw, float], None]
"""Called with the two parts of an `Outcome`."""


class BatchEntry(msgspec.Struct, Generic[T], eq=False):
    """A request that has waited for its batch since `since`."""

    item: T
    since: float
    on_outcome: OnOutcome
    is_over: bool = False
    """Whether it was answered or given up: `on_outcome` is not called any more."""


@dataclass(slots=True)
class _Group(Generic[T]):
    """Requests that may share a batch."""

    waiting: PriorityQueue[BatchEntry[T]] = field(default_factory=PriorityQueue)
    largest: float = 0.0
    """The largest cost that was ever among them."""

    def fills_a_batch(self, max_items: int) -> bool:
        count = len(self.waiting)
        return count >= max_items or count * self.largest >= self.waiting.first().item.most_cost


class BatchQueue(Generic[T]):
    """The requests that wait for one model, in groups that may share a batch of up to `max_items`. Lives on one event
    loop."""

    def __init__(self, max_items: int) -> None:
        self.coming = 0
        """How many requests are on their way to this queue."""
        self.is_filling = False
        """Whether a batch waits for requests on their way."""
        self.may_leave = asyncio.Event()
        """Set where waiting longer is of no use: a batch is full, or no request is on its way."""
        self.since = 0.0
        """When the first of the requests came that have not waited for a batch yet."""
        self.task: asyncio.Task[None] | None = None
        """The task that runs the batches, while there are any."""
        self._max_items = max_items
        self._groups: dict[Hashable, _Group[T]] = {}

    def __bool__(self) -> bool:
        """Return whether any request waits."""
        return bool(self._groups)

    def __len__(self) -> int:
        """Return how many requests wait."""
        return sum(len(group.waiting) for group in self._groups.values())

    def put(self, waiting: BatchEntry[T]) -> None:
        """Add a request."""
        item = waiting.item
        if not self._groups:
            self.since = waiting.since
        group = self._groups.get(item.batch_key)
        if group is None:
            group = self._groups[item.batch_key] = _Group()
        group.waiting.put(waiting, item.urgency)
        if item.cost > group.largest:
            group.largest = item.cost
        if self.is_filling and group.fills_a_batch(self._max_items):
            self.may_leave.set()

    def has_a_full_batch(self) -> bool:
        """Return whether enough requests wait to fill a batch."""
        return any(group.fills_a_batch(self._max_items) for group in self._groups.values())

    def take(self) -> list[BatchEntry[T]]:
        """Take the most urgent request and, in order of urgency, others that may share its batch.

        Returns nothing where no request waits any more.
        """
        if not self._groups:
            return []
        key, group = min(self._groups.items(), key=_turn)
        queue = group.waiting
        batch: list[BatchEntry[T]] = []
        largest = 0.0
        for _ in range(len(queue)):
            waiting = queue.take()
            if waiting.is_over:
                continue
            item = waiting.item
            if item.cost > largest:
                largest = item.cost
            if batch and (len(batch) + 1) * largest > item.most_cost:
                queue.put_back(waiting, item.urgency)
                break
            batch.append(waiting)
            if len(batch) == self._max_items:
                break
        if not queue:
            del self._groups[key]
        self.since = -math.inf  # the requests that are left have waited for this batch
        return batch

    def drain(self) -> list[BatchEntry[T]]:
        """Take all requests."""
        waiting = [one for group in self._groups.values() for one in group.waiting.drain()]
        self._groups.clear()
        return waiting


def _turn(group: tuple[Hashable, _Group[Any]]) -> tuple[Urgency, float]:
    """Return the key by which the next group is chosen: the smallest is next."""
    queue = group[1].waiting
    return queue.first_urgency, queue.first().since
