"""Limits how much of a batch runs at once, by the cost of its inputs; halves the limit when memory runs out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from engines.base import stop_if_unwanted
from engines.transformers.device import out_of_memory, unless_out_of_memory
from handlers.logger import get_logger

log = get_logger(__name__)

_LEAST_COST = 1e-6
"""The least cost of an item, so that half of a batch costs less even where its items cost nothing."""

T = TypeVar("T")
R = TypeVar("R")


class ShrinkOnOutOfMemory:
    """The largest cost that one model runs at once; halved permanently when a batch does not fit. Used by the one
    thread that runs the model."""

    def __init__(self, model: str, *, of: str = "inputs", most: float = math.inf) -> None:
        """`of` names what runs together: whole inputs, or pieces such as windows, each kind with its own limit.
        `most` is in the unit of their costs."""
        self.most = most
        self._model = model
        self._of = of

    def run(self, run: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T], costs: Sequence[float]) -> list[R]:
        """Call `run` with parts of `items` that fit, in order, and return the results of all.

        The cost of a part is padded: its number of items times the largest cost among them. An item that costs more
        than the limit is a part by itself. The memory of a failed run is free before anything runs again.

        Raises:
            Cancelled: permanent; no caller waits any more for what is left.
            OutOfMemory: retryable; one item does not fit even by itself.
            Exception: whatever else `run` raises.
        """
        costs = [max(cost, _LEAST_COST) for cost in costs]
        done: list[R] = []
        while len(done) < len(items):
            stop_if_unwanted()
            start = len(done)
            end = start + self._fitting(costs[start:])
            found = unless_out_of_memory(partial(run, items[start:end]))
            if found is not None:
                done += found
            elif end - start == 1:  # a failure of one item alone says nothing about smaller ones together
                raise out_of_memory(self._model)
            else:
                self.shrink((end - start) * max(costs[start:end]))
        return done

    def shrink(self, taken: float) -> None:
        """Set the limit to half of `taken`, which did not fit."""
        self.most = min(self.most, taken / 2)
        log.warning("batches_made_smaller", model=self._model, of=self._of, most=self.most)

    def _fitting(self, costs: Sequence[float]) -> int:
        """Return how many of the items with these costs run next, at least 1."""
        largest = 0.0
        for index, cost in enumerate(costs):
            largest = max(largest, cost)
            if index and (index + 1) * largest > self.most:
                return index
        return len(costs)


WINDOW_S = 30.0
"""Whisper's windows have this length, however short a recording is."""


def cost_of(inputs: Mapping[str, Any]) -> float:
    """Return the seconds of sound, pixels, frames or pages of an input; 1 where it has none."""
    if "audio" in inputs:
        return len(inputs["audio"]) / float(inputs.get("sampling_rate", 16_000))
    if "frames" in inputs:
        return float(len(inputs["frames"]))
    if "pages" in inputs:
        return float(len(inputs["pages"]))
    if "image" in inputs:
        width, height = inputs["image"].size
        return float(width * height)
    return 1.0
