"""An event loop whose time passes at once when nothing is left to do, and aiokafka's consumers by the same clock."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer import fetcher, group_coordinator, subscription_state


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes when nothing is left to do, and at once."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                events = super().select(0)
                if not events:
                    assert timeout is not None, "nothing will ever happen again"
                    loop.now += max(1e-6, timeout)  # less is nothing to a float
                return events

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


@contextmanager
def virtual_time() -> Iterator[VirtualLoop]:
    """A loop for one test, by whose clock aiokafka's consumers go too."""
    loop = VirtualLoop()
    modules: list[Any] = [fetcher, group_coordinator, subscription_state]
    for module in modules:
        module.time = SimpleNamespace(monotonic=loop.time, time=time.time)
    try:
        yield loop
    finally:
        for module in modules:
            module.time = time
        loop.close()
