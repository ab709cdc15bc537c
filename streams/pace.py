"""Knows which handlers are quick enough to run on the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from handlers.base import BaseModelHandler

log = structlog.get_logger(__name__)
R = TypeVar("R")

_QUICK_S = 0.002
"""What a stage may take on the event loop; where it takes longer it runs in threads from then on."""

_MOST_COUNTED_S = 2 * _QUICK_S
_WEIGHT = 0.25
"""Of the latest call in the mean: three long calls in a row are proof, and one is none, since a busy machine may
have stopped this process in the midst of it."""


class Pace:
    """Measures the stages of handlers on the event loop, of which it is a part.

    A stage is taken for quick until it has proved otherwise. A hop to a thread and back costs more than most
    of them.
    """

    def __init__(self) -> None:
        self._mean_s: dict[tuple[type[BaseModelHandler], str], float] = {}

    def is_quick(self, handler: BaseModelHandler, stage: str) -> bool:
        """Return whether this stage of the handler may run on the event loop."""
        return self._mean_s.get((type(handler), stage), 0.0) <= _QUICK_S

    def run(self, handler: BaseModelHandler, stage: str, call: Callable[..., R], *arguments: Any) -> R:
        """Return what the stage returns, here and now, and remember how long it took."""
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            took_s = min(time.perf_counter() - started, _MOST_COUNTED_S)
            key = (type(handler), stage)
            before_s = self._mean_s.get(key, 0.0)
            self._mean_s[key] = mean_s = before_s + _WEIGHT * (took_s - before_s)
            if mean_s > _QUICK_S:
                log.info("stage_moved_to_threads", handler=type(handler).__name__, stage=stage)
