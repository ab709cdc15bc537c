"""Who waits for whom where engines block: loads for loads of the same engine, and nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from engines.base import Emit
from engines.run.executor import Execution
from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher
from streams.pipeline.dispatcher import Dispatcher, EngineExecutors

MAX_MODELS = 2


@dataclass
class Item:
    """The part of a prepared request that is looked at on the way."""

    engine_name: str
    model: str
    is_continuous: bool = False
    batch_key: str = "same"
    urgency: tuple[float, float] = (0.0, 0.0)
    cost: float = 0.0
    most_cost: float = 1.0
    timings: dict[str, float] = field(default_factory=lambda: {"wait": 0.0})
    emit: Emit | None = None

    @property
    def lane_key(self) -> tuple[str, str]:
        return self.engine_name, self.model


@dataclass
class Manager:
    """Has some models in memory; loads of others hang until the gate opens."""

    warm: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    loading: set[str] = field(default_factory=set)

    def is_loaded(self, prepared: Item) -> bool:
        return prepared.model in self.warm

    def execute(self, batch: Sequence[Item], early: Any) -> list[Outcome]:
        self._load(batch[0].model)
        return [{"model": item.model} for item in batch]

    def start(self, prepared: Item, emit: Emit | None) -> Future[Outcome]:
        self._load(prepared.model)
        started: Future[Outcome] = Future()
        started.set_result({"model": prepared.model})
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

    async def run(self, item: Item) -> Any:
        async with asyncio.timeout(20):
            return await self.dispatcher.run(cast(Job, item))

    async def loads_hang(
        self, engine: str, *, is_continuous: bool, count: int = 12
    ) -> list[asyncio.Task[Any]]:
        """Ask for as many models of `engine` that are not there; return when as many load as may."""
        asked = [asyncio.create_task(self.run(Item(engine, f"cold{n}", is_continuous))) for n in range(count)]
        while len(self.manager.loading) < MAX_MODELS + 2:
            await asyncio.sleep(0)
        return asked


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    manager = Manager(warm={"warm"})
    with EngineExecutors(MAX_MODELS, cast(Any, manager.is_loaded)) as threads:
        batcher = Batcher(cast(Any, manager.execute), threads=threads.of, max_items=4, max_wait_s=0.0)
        yield Rig(manager, Dispatcher(cast(Execution, manager), batcher, threads.of))
        manager.gate.set()
        await batcher.close()


@pytest.mark.parametrize("is_continuous", [True, False], ids=["one by one", "in batches"])
@pytest.mark.parametrize("loads", [True, False], ids=["loads one by one", "loads in batches"])
@pytest.mark.parametrize("engine", ["transformers", "ollama"])
async def test_a_model_in_memory_answers_while_loads_of_its_engine_and_of_others_hang(
    rig: Rig, engine: str, loads: bool, is_continuous: bool
) -> None:
    asked = await rig.loads_hang("ollama", is_continuous=loads)
    assert await rig.run(Item(engine, "warm", is_continuous)) == {"model": "warm"}
    assert not any(task.done() for task in asked)
    rig.manager.gate.set()
    assert await asyncio.gather(*asked) == [{"model": f"cold{n}"} for n in range(12)]


async def test_a_model_of_another_engine_loads_while_loads_hang_which_are_limited(rig: Rig) -> None:
    asked = await rig.loads_hang("ollama", is_continuous=True)
    other = asyncio.create_task(rig.run(Item("transformers", "other")))
    while "other" not in rig.manager.loading:
        await asyncio.sleep(0)
    assert len(rig.manager.loading) == MAX_MODELS + 2 + 1
    rig.manager.gate.set()
    assert await other == {"model": "other"}
    await asyncio.gather(*asked)
