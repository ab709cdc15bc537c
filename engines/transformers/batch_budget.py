"""Batches in parts that fit a model's memory: what did not fit is halved, and no later part is larger."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from engines.transformers.device import free_memory, is_out_of_memory, out_of_memory

log = structlog.get_logger(__name__)

_LEAST_COST = 1e-6
"""What an item counts at least, so that half of what does not fit is less even where the items cost nothing."""

T = TypeVar("T")
R = TypeVar("R")


class BatchBudget:
    """The most that one model runs at once, which shrinks for good where something did not fit the memory.

    What a part takes is padded: its number of items times the largest cost among them. Used by the one thread
    that runs the model.
    """

    def __init__(self, model: str, *, of: str = "inputs", most_cost: float = math.inf) -> None:
        """`of` says what runs together: whole inputs, or pieces of them such as windows, each kind with a budget
        of its own; `most_cost` is in the unit of their costs."""
        self.most_cost = most_cost
        self._model = model
        self._of = of

    def run(
        self, run: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T], costs: Sequence[float]
    ) -> list[R]:
        """Return what `run` makes of each of `items`, which it is given in parts that fit, in order.

        An item that costs more than the budget is a part by itself. Before anything runs again, the memory that
        a failed run held is free.

        Raises:
            OutOfMemory: retryable; one item does not fit even by itself.
            Exception: whatever else `run` raises.
        """
        costs = [max(cost, _LEAST_COST) for cost in costs]
        done: list[R] = []
        start = 0
        while start < len(items):
            end = start + self._fitting(costs[start:])
            found = self._attempt(run, items[start:end])
            if found is not None:
                done += found
                start = end
            elif end - start == 1:  # what one item alone takes says nothing about smaller ones together
                raise out_of_memory(self._model)
            else:
                self._halve(costs[start:end])
        return done

    def _attempt(self, run: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> Sequence[R] | None:
        """Return what `run` makes of `items`, None where it runs out of memory, which is free again by then."""
        try:
            return run(items)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here is the error gone, and with it the frames that hold what the run had in memory.
        free_memory()
        return None

    def _fitting(self, costs: Sequence[float]) -> int:
        """Return how many of the items with these costs run next, at least 1."""
        largest = 0.0
        for index, cost in enumerate(costs):
            largest = max(largest, cost)
            if index and (index + 1) * largest > self.most_cost:
                return index
        return len(costs)

    def _halve(self, costs: Sequence[float]) -> None:
        self.most_cost = min(self.most_cost, len(costs) * max(costs) / 2)
        log.warning(
            "batches_made_smaller", model=self._model, of=self._of, count=len(costs), most_cost=self.most_cost
        )
