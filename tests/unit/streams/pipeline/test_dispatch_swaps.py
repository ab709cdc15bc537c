"""Callers that leave while versions of their model come and go: no lease and no version is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streams.pipeline.batcher import Batcher
from streams.pipeline.dispatcher import Dispatcher
from tests.prepared_job import new_job
from tests.unit.engines.cached_models import DEADLINE_S, wait_until
from tests.unit.engines.parts import Bench, prepare
from tests.unit.engines.version_engines import (
    GrowingEngine,
    VersionEngine,
    stand_for,
    versions_in_memory,
)


class HeldUp:
    """Makes the load of version 3 wait until a test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go_on = threading.Event(), threading.Event()

    def load_model(self, name: str, **kw: Any) -> Any:
        if kw["version"] == "3":
            self.began.set()
            assert self.go_on.wait(DEADLINE_S)
        return super().load_model(name, **kw)  # type: ignore[misc]


class HeldUpGrowing(HeldUp, GrowingEngine):
    """Takes requests as they come."""


class HeldUpBatches(HeldUp, VersionEngine):
    """Takes requests in batches."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def leases(bench: Bench) -> int:
    return sum(row["leases"] for row in bench.manager.get_cached_models())


@pytest.mark.parametrize("engine", [HeldUpGrowing, HeldUpBatches])
async def test_a_caller_that_leaves_while_its_version_loads_and_is_replaced_leaves_nothing(
    tmp_path: Path, threads: ThreadPoolExecutor, engine: type[HeldUpGrowing | HeldUpBatches]
) -> None:
    bench = Bench(tmp_path)
    bench.engine = held_up = engine()
    batcher = Batcher(bench.manager.execution.run, threads=lambda _: threads, max_items=4, max_wait_s=0.0)
    dispatcher = Dispatcher(bench.manager.execution, batcher, lambda _: threads)
    caller = asyncio.create_task(dispatcher.run(prepare(bench, "one")))
    assert await asyncio.to_thread(held_up.began.wait, DEADLINE_S)
    caller.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await caller
    del caller
    stand_for(bench, "4")
    after = new_job(**request())
    await asyncio.to_thread(bench.manager.resolver.resolve, after)
    assert after.model.version == "4"
    held_up.go_on.set()
    await asyncio.to_thread(wait_until, lambda: leases(bench) == 0 and held_up.loads["tagged/3"] == 1)
    await asyncio.to_thread(wait_until, lambda: "3" not in versions_in_memory(bench))
    await batcher.close()
    bench.manager.close()


def request() -> dict[str, Any]:
    return {"task": "shout", "engine": "shouter", "model_name": "tagged", "data": {"text": "two"}}
