"""Who waits for one model, and who of them goes into its next batch."""

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
    """What a request must tell to be batched."""

    @property
    def lane_key(self) -> Hashable:
        """Requests with one lane key use one model, which runs one batch at a time."""

    @property
    def batch_key(self) -> Hashable:
        """Requests with one batch key may share a batch."""

    @property
    def urgency(self) -> Urgency:
        """The smallest goes first; among equals, the first that came."""

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
"""Called with both of an outcome."""


class BatchEntry(msgspec.Struct, Generic[T], eq=False):
    """A request that waits for its batch since `since`."""

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
    """What waits for one model, in groups that may share a batch of at most `max_items`. Lives on one event loop."""

    def __init__(self, max_items: int) -> None:
        self.coming = 0
        """How many requests are known to be on their way."""
        self.is_filling = False
        """Whether a batch waits for those who are coming."""
        self.may_leave = asyncio.Event()
        """Set where waiting longer would bring nothing: a batch is full, or nobody else is coming."""
        self.since = 0.0
        """When the first of those came who have waited for no batch yet."""
        self.task: asyncio.Task[None] | None = None
        """What runs the batches, while there are any."""
        self._max_items = max_items
        self._groups: dict[Hashable, _Group[T]] = {}

    def __bool__(self) -> bool:
        """Return whether anybody waits."""
        return bool(self._groups)

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(len(group.waiting) for group in self._groups.values())

    def put(self, waiting: BatchEntry[T]) -> None:
        """Add one who waits from now on."""
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
        """Return whether those who wait fill a batch."""
        return any(group.fills_a_batch(self._max_items) for group in self._groups.values())

    def take(self) -> list[BatchEntry[T]]:
        """Take the most urgent request and those, in order of urgency, that may share its batch.

        Empty where nobody is there any more.
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
        self.since = -math.inf  # those that are left have waited for this batch
        return batch

    def drain(self) -> list[BatchEntry[T]]:
        """Take all who wait."""
        waiting = [one for group in self._groups.values() for one in group.waiting.drain()]
        self._groups.clear()
        return waiting


def _turn(group: tuple[Hashable, _Group[Any]]) -> tuple[Urgency, float]:
    """Return what the next group has the least of."""
    queue = group[1].waiting
    return queue.first_urgency, queue.first().since
