"""The quick path: the same results as the pipeline's, and only for requests that wait for nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest

from engines.run.job import Alike
from handlers.options.options import OPTIONS
from handlers.options.spec import OptionSpec
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.messages import Request, Result
from streams.pipeline.batcher import Batcher
from streams.pipeline.byte_budget import ByteBudget
from streams.pipeline.dispatcher import Dispatcher
from streams.pipeline.fast_lane import FastLane
from streams.pipeline.pipeline import Pipeline, Pools
from streams.settings import S3Settings
from tests.unit.engines.parts import Bench, ShoutHandler


class PlainHandler(ShoutHandler):
    """Takes texts only, and takes its time where the text asks for that."""

    media_fields = ()

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        if data.get("text") == "slow":
            time.sleep(0.02)
        return super().preprocess(data, options)


class TellingHandler(PlainHandler):
    """Tells the top_k it was given, among the options or in the data."""

    options: ClassVar[Mapping[str, OptionSpec] | None] = {"top_k": OPTIONS["top_k"]}
    options_in_data = ("top_k",)

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {"top_k": options.get("top_k"), "metadata": {}}


class Site:
    """A pipeline and the quick path beside it, on one set of parts."""

    def __init__(self, bench: Bench, pipeline: Pipeline, batcher: Batcher) -> None:
        self.bench = bench
        self.pipeline = pipeline
        self.fast_lane = FastLane(pipeline, batcher)
        self.alike: Alike = {}

    async def quickly(self, request: Request) -> dict[str, Any]:
        """Return the result by the fast lane."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.fast_lane.start(request, result.set_result, queue_s=0.5, alike=self.alike)
        async with asyncio.timeout(30):
            return (await result).as_dict()

    async def answer(self, request: Request) -> dict[str, Any]:
        """Return the result by the pipeline."""
        return (await self.pipeline.answer(request, queue_s=0.5)).as_dict()

    async def needs_a_task(self, request: Request) -> bool:
        """Return whether the fast lane gave the request a task on its way to its result."""
        others = asyncio.all_tasks()
        asked = asyncio.create_task(self.quickly(request))
        given: set[str] = set()
        while not asked.done():
            given |= {task.get_name() for task in asyncio.all_tasks() - others}
            await asyncio.sleep(0)
        return "request" in given


@asynccontextmanager
async def site_with(directory: Path, handler: type[ShoutHandler]) -> AsyncIterator[Site]:
    bench = Bench(directory, handler=handler)
    with (
        ThreadPoolExecutor(2) as threads,
        ThreadPoolExecutor(1, "children") as children,
        closing(MediaFetcher(MediaSettings(), S3Settings())) as fetcher,
    ):
        batcher = Batcher(bench.manager.execution.run, threads=lambda _: threads, max_items=4, max_wait_s=0.0)
        pipeline = Pipeline(
            manager=bench.manager,
            fetcher=fetcher,
            dispatcher=Dispatcher(bench.manager.execution, batcher, lambda _: threads),
            pools=Pools(registry=threads, stages=threads, decode=threads, children=children),
            memory=ByteBudget(10**9),
            worker="w1",
        )
        site = Site(bench, pipeline, batcher)
        await pipeline.answer(shout("first"))  # makes the engine, and brings the name's version here
        yield site
        await batcher.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_with(tmp_path, PlainHandler) as made:
        yield made


def shout(text: str, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "id": "r1",
        "task": "shout",
        "engine": "shouter",
        "model_name": "tagged",
        "data": {"text": text},
        "metadata": {"run": 7},
    }
    return Request(**(fields | changes))


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {
        **result,
        "timestamp": 0.0,
        "processing_time": 0.0,
        "timings": {stage: value for stage, value in result["timings"].items() if stage == "queue"},
    }


@pytest.mark.parametrize(
    "request_",
    [
        shout("hello"),
        shout("refuse"),
        shout("value-error"),
        shout("preprocess-bug"),
        shout("engine-bug"),
        shout("postprocess-bug"),
        shout("hello", options={"top_k": 3}),
        shout("hello", options={"top_k": "many"}),
        shout("hello", data={}),
    ],
    ids=lambda request: f"{request.data} {request.options}",
)
@pytest.mark.logs_errors("inference_failed", "stage_failed")
async def test_its_results_are_those_of_the_pipeline(site: Site, request_: Request) -> None:
    quick = await site.quickly(request_)
    slow = await site.answer(request_)
    assert without_times(quick) == without_times(slow)
    assert quick["timings"].keys() == slow["timings"].keys()


async def test_requests_of_one_moment_share_the_check_of_their_names_and_nothing_else(site: Site) -> None:
    asked = site.bench.models.asked["tagged"]
    results = await asyncio.gather(*(site.quickly(shout(f"text {n}", id=f"r{n}")) for n in range(4)))
    assert site.bench.models.asked["tagged"] == asked + 1
    assert [result["result"]["text"] for result in results] == [f"TEXT {n}" for n in range(4)]
    assert len({id(result["timings"]) for result in results}) == 4


async def test_requests_of_one_moment_for_another_task_of_the_same_model_are_checked_by_themselves(
    site: Site,
) -> None:
    assert (await site.quickly(shout("hello")))["success"]
    other = await site.quickly(shout("hello", task="unheard-of"))
    assert other["error"]["code"] == "UNKNOWN_TASK"


@pytest.mark.parametrize("said", ["cost", "max_cost"])
@pytest.mark.logs_errors("stage_failed")
async def test_an_engine_that_tells_no_cost_fails_its_request_and_not_those_behind_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(site.bench.engine, said, lambda *_: None)
        failed = await site.quickly(shout("hello"))
    behind = await site.quickly(shout("hello"))
    assert failed["error"]["code"] == "INTERNAL_ERROR"
    assert behind["success"]


async def test_requests_of_one_moment_keep_the_options_that_stand_in_their_own_data(tmp_path: Path) -> None:
    async with site_with(tmp_path, TellingHandler) as site:
        results = [
            await site.quickly(shout("text", data={"text": "text", **given}))
            for given in ({"top_k": 1}, {"top_k": 2}, {})
        ]
    assert [result["result"]["top_k"] for result in results] == [1, 2, None]


async def test_every_request_is_counted(site: Site) -> None:
    before = site.bench.manager.get_stats()
    await site.quickly(shout("hello"))
    await site.quickly(shout("refuse"))
    after = site.bench.manager.get_stats()
    assert after["total_inferences"] - before["total_inferences"] == 2
    assert after["failed_inferences"] - before["failed_inferences"] == 1


@pytest.mark.parametrize(
    "request_",
    [
        shout("hello", deadline=4e9),
        shout("hello", model_name="unheard-of"),
        shout("hello", engine="transformers"),
    ],
    ids=["deadline", "name to be looked up", "engine to be made"],
)
async def test_a_request_that_may_have_to_wait_goes_on_in_a_task_with_the_same_result(
    site: Site, request_: Request
) -> None:
    assert await site.needs_a_task(request_)
    assert not await site.needs_a_task(shout("hello"))
    quick, slow = await site.quickly(request_), await site.answer(request_)
    assert without_times(quick) == without_times(slow)


async def test_a_task_with_media_goes_on_in_a_task_and_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site_with(tmp_path, ShoutHandler) as site:
        resolve = Mock(wraps=site.bench.manager.resolver.resolve)
        monkeypatch.setattr(site.bench.manager.resolver, "resolve", resolve)
        assert await site.needs_a_task(shout("hello"))
        assert resolve.call_count == 1
        assert (await site.quickly(shout("hello")))["result"]["text"] == "HELLO"


async def test_a_handler_that_proves_to_be_slow_goes_on_in_the_pipelines_threads(site: Site) -> None:
    needed = [await site.needs_a_task(shout("slow")) for _ in range(6)]
    assert needed[0] is False
    assert needed[-1] is True
    assert (await site.quickly(shout("hello")))["success"]


class Tracked(dict[str, Any]):
    """Data whose end can be seen."""


async def test_what_a_refused_request_holds_goes_with_it_rather_than_at_some_later_collection(
    site: Site,
) -> None:
    request = shout("refuse", data=Tracked(text="refuse"))
    its_data = weakref.ref(request.data)
    results: list[Result] = []
    gc.disable()
    try:
        site.fast_lane.start(request, results.append, queue_s=0.5, alike=site.alike)
        del request
        assert its_data() is None
    finally:
        gc.enable()
    assert not results[0].success


async def test_what_an_answered_request_holds_goes_with_it_too(site: Site) -> None:
    """A request is kept for those of the same moment that ask for the same; it must not refer to that moment."""
    request = shout("hello", metadata=Tracked(run=7))
    its_metadata = weakref.ref(request.metadata)
    answered = asyncio.Event()
    gc.disable()
    try:
        site.fast_lane.start(request, lambda _: answered.set(), queue_s=0.5, alike={})
        del request
        async with asyncio.timeout(60):
            await answered.wait()
            while its_metadata() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


@pytest.mark.parametrize("changes", [{}, {"deadline": time.time() + 3600}], ids=["by callbacks", "in a task"])
async def test_what_waits_for_its_model_can_be_given_up_and_never_runs(
    site: Site, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = site.bench.engine
    is_loading, may_load = threading.Event(), threading.Event()
    ran: list[str] = []

    def load(name: str, **kw: Any) -> dict[str, str]:
        is_loading.set()
        may_load.wait()
        return {"name": name}

    def infer(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        ran.append(inputs["text"])
        return {"shouted": inputs["text"]}

    monkeypatch.setattr(engine, "load_model", load)
    monkeypatch.setattr(engine, "infer", infer)
    site.bench.manager.clear_cache()
    results: list[Result] = []
    runs = [
        site.fast_lane.start(shout(text, id=text, **changes), results.append, queue_s=0.0, alike=site.alike)
        for text in ("loads", "waits")
    ]
    async with asyncio.timeout(60):
        await asyncio.to_thread(is_loading.wait)
        assert [run.give_up() for run in runs] == [True, True]
        may_load.set()
        assert (await site.quickly(shout("next")))["success"]
    assert (ran, results) == (["next"], [])


async def test_what_an_engine_has_begun_with_is_not_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, may_end = threading.Event(), threading.Event()

    def infer(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        runs.set()
        may_end.wait()
        return {"shouted": "DONE"}

    monkeypatch.setattr(site.bench.engine, "infer", infer)
    result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    run = site.fast_lane.start(shout("long"), result.set_result, queue_s=0.0, alike=site.alike)
    async with asyncio.timeout(60):
        await asyncio.to_thread(runs.wait)
        assert not run.give_up()
        may_end.set()
        assert (await result).success


@pytest.mark.parametrize("changes", [{}, {"deadline": "2100-01-01T00:00:00Z"}], ids=["without a task", "in a task"])
async def test_what_an_engine_has_begun_with_can_be_cancelled_and_has_no_result(
    site: Site, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    runs, may_end = threading.Event(), threading.Event()

    def infer(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        runs.set()
        may_end.wait()
        return {"shouted": inputs["text"]}

    monkeypatch.setattr(site.bench.engine, "infer", infer)
    results: list[Result] = []
    run = site.fast_lane.start(shout("long", **changes), results.append, queue_s=0.0, alike=site.alike)
    async with asyncio.timeout(60):
        await asyncio.to_thread(runs.wait)
        assert run.cancel()
        may_end.set()
        assert (await site.quickly(shout("next")))["success"]
    assert results == []
