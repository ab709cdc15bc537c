"""Who waits for whom where engines block: loads for loads of the same engine, and nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from engines.base import Emit
from engines.run.executor import Execution, OnOutcome
from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher
from streams.pipeline.dispatcher import Dispatcher, EngineExecutors
from tests.unit.streams.pipeline.batching_rig import job

MAX_MODELS = 2


class Manager(Execution):
    """Has some models in memory; loads of others hang until the gate opens."""

    def __init__(self, warm: set[str]) -> None:
        self.warm = warm
        self.gate = threading.Event()
        self.loading: set[str] = set()

    def is_loaded(self, job: Job) -> bool:
        return job.lane_key.name in self.warm

    def execute(self, batch: Sequence[Job], early: OnOutcome) -> list[Outcome]:
        self._load(batch[0].lane_key.name)
        return [{"model": one.lane_key.name} for one in batch]

    def start(self, job: Job, emit: Emit | None = None) -> Future[Outcome]:
        self._load(job.lane_key.name)
        started: Future[Outcome] = Future()
        started.set_result({"model": job.lane_key.name})
        return started

    def _load(self, model: str) -> None:
        if model not in self.warm:
            self.loading.add(model)
            assert self.gate.wait(30)
            self.warm.add(model)


class Rig:
    def __init__(self, manager: Manager, dispatcher: Dispatcher) -> None:
        self.manager = manager
        self.dispatcher = dispatcher

    async def run(self, engine: str, model: str, is_continuous: bool = False) -> Outcome:
        async with asyncio.timeout(20):
            return await self.dispatcher.run(job(0, engine=engine, model=model, is_continuous=is_continuous))

    async def loads_hang(self, engine: str, *, is_continuous: bool, count: int = 12) -> list[asyncio.Task[Any]]:
        """Ask for as many models of `engine` that are not there; return when as many load as may."""
        asked = [asyncio.create_task(self.run(engine, f"cold{n}", is_continuous)) for n in range(count)]
        while len(self.manager.loading) < MAX_MODELS + 2:
            await asyncio.sleep(0)
        return asked


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    manager = Manager(warm={"warm"})
    with EngineExecutors(MAX_MODELS, manager.is_loaded) as threads:
        batcher = Batcher(manager.execute, threads=threads.of, max_items=4, max_wait_s=0.0)
        yield Rig(manager, Dispatcher(manager, batcher, threads.of))
        manager.gate.set()
        await batcher.close()


@pytest.mark.parametrize("is_continuous", [True, False], ids=["one by one", "in batches"])
@pytest.mark.parametrize("loads", [True, False], ids=["loads one by one", "loads in batches"])
@pytest.mark.parametrize("engine", ["transformers", "ollama"])
async def test_a_model_in_memory_answers_while_loads_of_its_engine_and_of_others_hang(
    rig: Rig, engine: str, loads: bool, is_continuous: bool
) -> None:
    asked = await rig.loads_hang("ollama", is_continuous=loads)
    assert await rig.run(engine, "warm", is_continuous) == {"model": "warm"}
    assert not any(task.done() for task in asked)
    rig.manager.gate.set()
    assert await asyncio.gather(*asked) == [{"model": f"cold{n}"} for n in range(12)]


async def test_a_model_of_another_engine_loads_while_loads_hang_which_are_limited(rig: Rig) -> None:
    asked = await rig.loads_hang("ollama", is_continuous=True)
    other = asyncio.create_task(rig.run("transformers", "other"))
    while "other" not in rig.manager.loading:
        await asyncio.sleep(0)
    assert len(rig.manager.loading) == MAX_MODELS + 2 + 1
    rig.manager.gate.set()
    assert await other == {"model": "other"}
    await asyncio.gather(*asked)
