"""Knows which handlers are quick enough to run on the event loop."""

from __future__ import annotations

import structlog

from handlers.base import BaseModelHandler

log = structlog.get_logger(__name__)

QUICK_S = 0.002
"""What a stage may take on the event loop; where it takes longer it runs in threads from then on."""

_PROOF = 3
"""Long calls in a row that are proof. One is none: a busy machine may have stopped this process in its midst."""


class Pace:
    """Remembers how long the stages of handlers took on the event loop, of which it is a part.

    A stage is taken for quick until it has proved otherwise. A hop to a thread and back costs more than most
    of them.
    """

    def __init__(self) -> None:
        self._long_calls: dict[tuple[type[BaseModelHandler], str], int] = {}
        self._slow: set[tuple[type[BaseModelHandler], str]] = set()

    def is_quick(self, handler: BaseModelHandler, *stages: str) -> bool:
        """Return whether these stages of the handler may run on the event loop."""
        return not self._slow or not any((type(handler), stage) in self._slow for stage in stages)

    def took(self, handler: BaseModelHandler, stage: str, seconds: float) -> None:
        """Remember a call on the event loop."""
        if seconds > QUICK_S:
            key = (type(handler), stage)
            self._long_calls[key] = self._long_calls.get(key, 0) + 1
            if self._long_calls[key] >= _PROOF:
                self._slow.add(key)
                log.info("stage_moved_to_threads", handler=type(handler).__name__, stage=stage)
        elif self._long_calls:
            self._long_calls.pop((type(handler), stage), None)
