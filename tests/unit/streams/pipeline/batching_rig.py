"""Items and an engine for tests of the batcher."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from streams.pipeline.batch_queue import Outcome, Raw
from streams.pipeline.batcher import Batcher


@dataclass(frozen=True)
class Item:
    value: int
    lane_key: str = "model"
    batch_key: str = "same"
    urgency: tuple[float, float] = (0.0, 0.0)
    cost: float = 0.0
    most_cost: float = math.inf


class Engine:
    """Records the batches it was given; holds each one back until released when `gated`."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(0) if gated else None
        self.entered = threading.Semaphore(0)

    def __call__(self, batch: Sequence[Item]) -> Sequence[Raw]:
        self.batches.append([item.value for item in batch])
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        return [{"value": item.value} for item in batch]


Make = Callable[..., Batcher[Item]]
Execute = Callable[[Sequence[Item], Callable[[Item, Raw], None]], Sequence[Raw]]


def all_at_once(execute: Callable[[Sequence[Item]], Sequence[Raw]]) -> Execute:
    """Return what answers nobody early."""
    return lambda batch, early: execute(batch)


async def entered(engine: Engine) -> None:
    assert await asyncio.to_thread(engine.entered.acquire, timeout=30)


async def queued(batcher: Batcher[Item], items: Sequence[Item]) -> list[asyncio.Task[Outcome]]:
    """Submit `items` one after the other and return once all of them wait."""
    waiting = [asyncio.create_task(batcher.submit(item)) for item in items]
    while batcher.depth < len(items):
        await asyncio.sleep(0)
    return waiting


class Turns(ThreadPoolExecutor):
    """Counts what is run in it."""

    count = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return super().submit(*args, **kwargs)
