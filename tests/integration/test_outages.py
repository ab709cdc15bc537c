"""S3 or MLflow away for 20 seconds: what needs them is told so, what does not goes on, and so does the worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from deploy.local.s3 import BUCKET
from streams.client import InferenceClient
from streams.messages import Request, Result
from tests.integration.worker_process import Site, WorkerProcess

OUTAGE_S = 20.0
BARE = {"value": 1}


@pytest.fixture
async def site(local_stack: LocalStack, sleepy_model: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A worker of its own that gives up on media after 3 s."""
    site = Site(
        tmp_path,
        local_stack.settings(),
        worker={"plugins": ["tests.plugins.sleepy"], "tasks": ["sleepy"]},
        media={"deadline_s": 3.0},
    )
    await site.create_topics(["sleepy"])
    with WorkerProcess(site) as worker:
        await worker.started()
        yield site
        assert worker.terminate() == 0


@pytest.fixture
def with_media(local_stack: LocalStack) -> dict[str, Any]:
    """Data of a request that names an object of 5 bytes."""
    store = local_stack.s3.client()
    key = f"{uuid.uuid4().hex}.bin"
    try:
        store.put_object(Bucket=BUCKET, Key=key, Body=b"hello")
    finally:
        store.close()
    return {"value": 1, "media": f"s3://{BUCKET}/{key}"}


async def ask(client: InferenceClient, data: dict[str, Any], *, model: str = "sleepy") -> Result:
    request = Request(task="sleepy", engine="sleepy", model_name=model, data=data, id=uuid.uuid4().hex)
    return await client.infer(request, timeout_s=90)


async def one_result_each(site: Site, asked: list[Result]) -> None:
    """Check that nothing was answered twice."""
    found = [record.value for record in await site.everything(site.topics.results("sleepy"))]
    for result in asked:
        assert sum(result.id.encode() in value for value in found) == 1


async def test_while_s3_is_away_its_requests_fail_alone_and_come_right_when_it_is_back(
    local_stack: LocalStack, site: Site, with_media: dict[str, Any]
) -> None:
    async with InferenceClient(site.settings.kafka, tasks=["sleepy"]) as client:
        answered = [await ask(client, with_media), await ask(client, BARE)]
        refused: list[Result] = []
        local_stack.s3.stop()
        try:
            until = time.monotonic() + OUTAGE_S
            while time.monotonic() < until:
                refused.append(await ask(client, with_media))
                answered.append(await ask(client, BARE))
        finally:
            local_stack.s3.start()
        answered.append(await ask(client, with_media))
    for result in refused:
        assert result.error is not None
        assert (result.error.code, result.error.retryable) == ("MEDIA_UNAVAILABLE", True)
        assert "data.media" in result.error.message
        assert with_media["media"] in result.error.message
        assert "s3.endpoint_url" in result.error.message
    assert refused
    for result in answered:
        assert result.success, result.error
    await one_result_each(site, refused + answered)


async def test_while_mlflow_is_away_known_models_answer_and_new_ones_are_refused(
    local_stack: LocalStack, site: Site
) -> None:
    async with InferenceClient(site.settings.kafka, tasks=["sleepy"]) as client:
        answered = [await ask(client, BARE)]
        refused: list[Result] = []
        local_stack.mlflow.stop()
        try:
            until = time.monotonic() + OUTAGE_S
            while time.monotonic() < until:
                refused.append(await ask(client, BARE, model="sleepy-too"))
                answered.append(await ask(client, BARE))
        finally:
            local_stack.mlflow.start()
        answered.append(await ask(client, BARE, model="sleepy-too"))
    for result in refused:
        assert result.error is not None
        assert (result.error.code, result.error.retryable) == ("REGISTRY_UNAVAILABLE", True)
        assert "sleepy-too" in result.error.message
        assert "mlflow.tracking_uri" in result.error.message
    assert refused
    for result in answered:
        assert result.success, result.error
    await one_result_each(site, refused + answered)
