"""A worker whose engines and handlers raise what they should not, or never come back."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import LocalStack
from engines.models.model_manager import ModelManager
from streams.client import InferenceClient
from streams.messages import Request
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess
from tests.plugins.unruly import KINDS

TASKS = ["unruly", "unruly-media", "unruly-texts"]
PLACES = {
    "unruly": ("preprocess", "infer", "postprocess"),
    "unruly-media": ("preprocess", "infer", "postprocess"),
    "unruly-texts": ("preprocess", "submit", "future", "postprocess"),
}


@pytest.fixture(scope="module")
def models(model_manager: ModelManager) -> list[str]:
    """Registered models without files: one that is well, and others that hang."""
    names = ["unruly", "unruly-two", "load-hangs"]
    for name in names:
        model_manager.register_model_to_mlflow(
            model_name=name,
            model_source="huggingface",
            model_path=f"hf://tests/{name}",
            tags={"task": ",".join(TASKS), "engine": "unruly"},
        )
    return names


async def site_with(directory: Path, stack: LocalStack, **worker: Any) -> Site:
    plugins = ["tests.plugins.unruly_plugin"]
    site = Site(
        directory,
        stack.settings(),
        worker={"tasks": TASKS, "plugins": plugins, **worker},
        http={"port": 0, "enabled": True},
    )
    await site.create_topics(TASKS)
    return site


def unruly(identity: str, task: str = "unruly", *, model: str = "unruly", **data: Any) -> Request:
    return Request(task=task, engine="unruly", model_name=model, id=identity, data={"value": identity, **data})


async def send(site: Site, requests: list[Request]) -> None:
    async with InferenceClient(site.settings.kafka, tasks=[]) as client:
        await asyncio.gather(*(client.send(request) for request in requests))


async def until_committed(site: Site, task: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sum((await site.committed(site.topics.requests(task))).values()) != count:
            await asyncio.sleep(0.1)


async def until_loaded(worker: WorkerProcess, count: int) -> None:
    """Return once that many models are loaded: their first requests are run next."""
    async with asyncio.timeout(PATIENCE_S):
        while worker.log.count('"model_loaded"') < count:
            await asyncio.sleep(0.05)


def url_of(worker: WorkerProcess) -> str:
    [url, *_] = re.findall(r"http://127\.0\.0\.1:\d+(?=\")", worker.log)
    return str(url)


async def test_whatever_is_raised_is_one_failed_result_and_all_others_are_answered(
    local_stack: LocalStack, models: list[str], tmp_path: Path
) -> None:
    site = await site_with(tmp_path, local_stack)
    with WorkerProcess(site) as worker:
        await worker.started()
        for task, places in PLACES.items():
            bad = [unruly(f"{place}-{kind}", task, raises={place: kind}) for place in places for kind in KINDS]
            good = [unruly(f"good-{number}", task) for number in range(20)]
            mixed = [one for pair in zip(bad, good, strict=False) for one in pair]
            rest = [one for one in (*bad, *good) if one not in mixed]
            await send(site, [*mixed, *rest])
            results = await site.results(task, [one.id for one in (*bad, *good)])
            assert all(results[one.id].success for one in good)
            assert not any(results[one.id].success for one in bad)
            await until_committed(site, task, len(bad) + len(good))
        assert worker.terminate() == 0


async def test_what_hangs_is_answered_and_committed_while_other_models_and_tasks_go_on(
    local_stack: LocalStack, models: list[str], tmp_path: Path
) -> None:
    site = await site_with(
        tmp_path,
        local_stack,
        infer_timeouts=["unruly=5", "load-hangs=5", "unruly-media=5", "unruly-texts=5"],
        max_in_flight=64,
        max_stuck_calls=20,
    )
    hanging = [
        unruly("infer", hangs=["infer"]),
        unruly("load", model="load-hangs"),
        unruly("preprocess", "unruly-media", hangs=["preprocess"]),
        unruly("future", "unruly-texts", hangs=["future"]),
        *(
            unruly(f"{task}-{place}", task, model="unruly-two", hangs=[place])
            for task in TASKS  # those without media begin on the event loop
            for place in ("preprocess", "postprocess")
        ),
    ]
    with WorkerProcess(site) as worker:
        await worker.started()
        await send(site, hanging)
        others = [unruly(f"other-{task}-{number}", task, model="unruly-two") for task in TASKS for number in range(20)]
        await send(site, others)
        for task in TASKS:
            ours = [one for one in (*hanging, *others) if one.task == task]
            results = await site.results(task, [one.id for one in ours])
            for one in ours:
                result = results[one.id]
                if one in hanging:
                    assert result.error is not None
                    assert (result.error.code, result.error.retryable) == ("INFERENCE_TIMEOUT", True)
                else:
                    assert result.success
            await until_committed(site, task, len(ours))
        async with httpx.AsyncClient(base_url=url_of(worker)) as client:
            ready = (await client.get("/readyz")).json()
            assert ready["status"] == "degraded"
            stuck = ready["components"]["calls"]["stuck"]
            assert {"unruly/unruly/unruly/1", "postprocess of task unruly"} <= set(stuck)
        await send(site, [unruly("again")])
        assert (await site.results("unruly", ["again"]))["again"].success
        assert worker.terminate() == 0, "threads that hang keep no worker from stopping"


async def test_with_too_many_calls_that_hang_the_worker_ends_and_the_next_does_not_repeat_them(
    local_stack: LocalStack, models: list[str], tmp_path: Path
) -> None:
    site = await site_with(tmp_path, local_stack, infer_timeout_s=4, max_stuck_calls=0, batch_max_items=1)
    behind = [f"behind-{number}" for number in range(20)]
    with WorkerProcess(site) as worker:
        await worker.started()
        await send(site, [unruly("stuck", hangs=["infer"]), unruly("well", "unruly-texts", model="unruly-two")])
        await until_loaded(worker, 2)  # so the engine begins with it before those behind arrive
        await send(site, [unruly(one) for one in behind])
        status = await asyncio.to_thread(worker.process.wait, PATIENCE_S)
    assert status == 1
    assert "more calls hang" in worker.log or "calls hang in this process" in worker.log
    result = (await site.results("unruly", ["stuck"]))["stuck"]
    assert result.error is not None
    assert result.error.code == "INFERENCE_TIMEOUT"
    await until_committed(site, "unruly", 1)
    with WorkerProcess(site) as successor:
        await successor.started()
        await send(site, [unruly("after")])
        assert (await site.results("unruly", ["after"]))["after"].success
        await site.results("unruly", behind)
        answered = [json.loads(one.value) for one in await site.everything(site.topics.results("unruly"))]
        assert sorted(one["id"] for one in answered) == sorted(["after", "stuck", *behind])
        assert [one["id"] for one in answered if not one["success"]] == ["stuck"]
        assert successor.terminate() == 0
