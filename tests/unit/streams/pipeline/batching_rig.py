"""Jobs and an engine for tests of the batcher."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from engines.base import Urgency
from engines.log_context import RequestName
from engines.models.resolved_model import ModelKey
from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher
from tests.unit.engines.parts import ShoutEngine


class OneByOne(ShoutEngine):
    continuous_tasks = frozenset({"shout"})


_IN_BATCHES, _ONE_BY_ONE = ShoutEngine(), OneByOne()


def key(model: str = "model", engine: str = "shouter") -> ModelKey:
    return ModelKey(engine, "shout", model, "1", "")


def job(
    value: int,
    *,
    model: str = "model",
    engine: str = "shouter",
    is_continuous: bool = False,
    batch_key: str = "same",
    urgency: Urgency = (0.0, 0.0),
    cost: float = 0.0,
    most_cost: float = math.inf,
) -> Job:
    return Job(
        name=RequestName(str(value), "shout", "model"),
        task="shout",
        engine_name=engine,
        engine=_ONE_BY_ONE if is_continuous else _IN_BATCHES,
        data={"value": value},
        lane_key=key(model, engine),
        batch_key=(batch_key,),
        urgency=urgency,
        cost=cost,
        most_cost=most_cost,
    )


def value_of(job: Job) -> int:
    value: int = job.data["value"]
    return value


class Engine:
    """Records the batches it was given; holds each one back until released when `gated`."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(0) if gated else None
        self.entered = threading.Semaphore(0)

    def __call__(self, batch: Sequence[Job]) -> Sequence[Outcome]:
        self.batches.append([value_of(one) for one in batch])
        self.entered.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        return [{"value": value_of(one)} for one in batch]


Make = Callable[..., Batcher]
Early = Callable[[Job, Outcome], None]


def all_at_once(
    execute: Callable[[Sequence[Job]], Sequence[Outcome]],
) -> Callable[[Sequence[Job], Early], Sequence[Outcome]]:
    """Return what answers nobody early."""
    return lambda batch, early: execute(batch)


async def entered(engine: Engine) -> None:
    assert await asyncio.to_thread(engine.entered.acquire, timeout=30)


async def queued(batcher: Batcher, jobs: Sequence[Job]) -> list[asyncio.Task[Outcome]]:
    """Submit `jobs` one after the other and return once all of them wait."""
    waiting = [asyncio.create_task(batcher.submit(one)) for one in jobs]
    while batcher.depth < len(jobs):
        await asyncio.sleep(0)
    return waiting


class Turns(ThreadPoolExecutor):
    """Counts what is run in it."""

    count = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return super().submit(*args, **kwargs)
