"""An alias of a real MLflow server flipped under load: a worker follows, and no request fails or mixes versions."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local import LocalStack
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from streams.client import InferenceClient
from streams.kafka.topic_reader import TopicReader
from streams.messages import MetricsEvent, Request, Result, decode_event
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess

CALLERS = 8
TASK = "versioned"


@pytest.fixture(scope="module")
def versions(model_manager: ModelManager) -> list[ResolvedModel]:
    """Three versions of one model, the last of which does not load."""
    return [
        model_manager.register_model_to_mlflow(
            model_name="hot-swap",
            model_source="huggingface",
            model_path="hf://tests/hot-swap",
            tags={"task": TASK, "engine": TASK, **more},
        )
        for more in ({"edition": "first"}, {"edition": "second"}, {"broken": "yes"})
    ]


@pytest.fixture
async def site(
    local_stack: LocalStack, model_manager: ModelManager, versions: list[ResolvedModel], tmp_path: Path
) -> AsyncIterator[Site]:
    """A worker that has loaded the first version, the champion, and looks for news five times a second."""
    model_manager.set_alias(versions[0], "champion")
    site = Site(
        tmp_path,
        local_stack.settings(),
        worker={"plugins": ["tests.plugins.versioned"], "tasks": [TASK], "warm": ["hot-swap"]},
        mlflow={"alias_poll_s": 0.2},
    )
    await site.create_topics([TASK])
    with WorkerProcess(site) as worker:
        await worker.started()
        yield site
        assert worker.terminate() == 0


class Load:
    """Callers that ask one after the other until told to stop, and what they got."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client
        self._stopping = False
        self.by_version: Counter[str | None] = Counter()
        self.wrong: list[Result] = []

    async def call(self) -> None:
        while not self._stopping:
            request = Request(task=TASK, engine=TASK, model_name="hot-swap", data={"value": 1}, id=uuid.uuid4().hex)
            result = await self._client.infer(request, timeout_s=PATIENCE_S)
            self.by_version[result.model_version] += 1
            if result.result is None or result.result["version"] != result.model_version:
                self.wrong.append(result)

    async def answers_of(self, version: str, count: int = 20) -> None:
        """Return once so many more answers came from a version."""
        enough = self.by_version[version] + count
        async with asyncio.timeout(PATIENCE_S):
            while self.by_version[version] < enough:
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopping = True


async def model_events(site: Site, *wanted: tuple[str, str]) -> list[MetricsEvent]:
    """Return the events about models, in order, as soon as these are among them: kind and version."""
    missing, seen = Counter(wanted), list[MetricsEvent]()
    async with (
        asyncio.timeout(PATIENCE_S),
        TopicReader(site.settings.kafka, [site.topics.events], start="beginning") as reader,
    ):
        async for record in reader.records():
            event = decode_event(record.value)
            if event.kind.startswith("model_"):
                seen.append(event)
                missing -= Counter([(event.kind, event.model_version)])
            if not missing:
                break
    return sorted(seen, key=lambda event: event.time)


async def test_an_alias_flipped_under_load_fails_no_request_and_mixes_no_versions(
    site: Site, model_manager: ModelManager, versions: list[ResolvedModel]
) -> None:
    first, second, broken = versions
    async with InferenceClient(site.settings.kafka, tasks=[TASK]) as client:
        load = Load(client)
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(load.call())
            await load.answers_of(first.version)
            for target in (second, first, second, first, second):
                model_manager.set_alias(target, "champion")
                await load.answers_of(target.version)
            model_manager.set_alias(broken, "champion")
            await model_events(site, ("model_swap_failed", broken.version))
            await load.answers_of(second.version)
            load.stop()
    assert load.wrong == []
    assert set(load.by_version) == {first.version, second.version}
    expected = [target.version for target in (second, first, second, first, second)]
    seen = await model_events(
        site,
        *[("model_swapped", version) for version in expected],
        ("model_swap_failed", broken.version),
    )
    swaps = [event.model_version for event in seen if event.kind == "model_swapped"]
    assert swaps == expected
    [failed, *_] = [event for event in seen if event.kind == "model_swap_failed"]
    assert failed.details["error_code"] == "MODEL_LOAD_FAILED"
    assert failed.details["current_version"] == second.version


async def test_a_warmed_model_follows_its_alias_without_a_request(
    site: Site, model_manager: ModelManager, versions: list[ResolvedModel]
) -> None:
    first, second, _ = versions
    await model_events(site, ("model_loaded", first.version))
    model_manager.set_alias(second, "champion")
    course = [
        ("model_loaded", first.version),
        ("model_loaded", second.version),
        ("model_swapped", second.version),
        ("model_evicted", first.version),
    ]
    seen = await model_events(site, *course)
    assert [(event.kind, event.model_version) for event in seen] == course
