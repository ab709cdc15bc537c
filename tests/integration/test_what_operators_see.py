"""A worker whose broker goes away: few lines, a state that says so, and work that goes on when it is back."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import KafkaRelease, LocalStack
from streams.client import InferenceClient
from streams.messages import Request
from tests.integration.worker_process import Site, WorkerProcess
from tests.kafka_cluster import RunningCluster

PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def cluster(kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    if kafka_release is None:
        pytest.skip("the embedded broker forgets everything when it dies")
    with RunningCluster(tmp_path_factory.mktemp("seen-kafka"), kafka_release) as cluster:
        yield cluster


@pytest.fixture
async def worker(
    local_stack: LocalStack, sleepy_model: str, cluster: RunningCluster, tmp_path: Path
) -> AsyncIterator[WorkerProcess]:
    settings = local_stack.settings()
    settings["kafka"] = {**settings["kafka"], **cluster.kafka, "producer_timeout_s": 5}
    site = Site(
        tmp_path,
        settings,
        worker={
            "plugins": ["tests.plugins.sleepy"],
            "tasks": ["sleepy"],
            "ready_without_broker_s": 5,
            "drain_timeout_s": 20,
        },
        http={"port": 0},
    )
    await site.create_topics(["sleepy"])
    with WorkerProcess(site) as worker:
        await worker.started()
        yield worker
        assert worker.terminate() == 0


def lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.2)


async def test_an_outage_is_few_lines_a_state_and_no_lost_request(
    worker: WorkerProcess, cluster: RunningCluster
) -> None:
    [url] = [line["url"] for line in lines(worker) if line["message"] == "http_listening"]
    kafka = worker.site.settings.kafka
    async with (
        httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http,
        InferenceClient(kafka, tasks=["sleepy"]) as client,
    ):

        async def ask() -> str:
            request = Request(
                id=uuid.uuid4().hex, task="sleepy", engine="sleepy", model_name="sleepy", data={"value": 1}
            )
            result = await client.infer(request, timeout_s=PATIENCE_S)
            assert result.success, result.error
            return result.id

        async def status_is(code: int) -> bool:
            return (await http.get("/readyz")).status_code == code

        await ask()
        await until(lambda: status_is(200))
        before = len(lines(worker))
        await asyncio.to_thread(cluster.kill, 1)
        await until(lambda: status_is(503))
        asking = [asyncio.create_task(ask()) for _ in range(20)]
        away = (await http.get("/readyz")).json()
        assert away["components"]["kafka"]["broker"]["status"] == "away"
        assert "\ninferstream_broker_up 0.0\n" in (await http.get("/metrics")).text
        assert (await http.get("/healthz")).status_code == 200
        said = [line for line in lines(worker)[before:] if line["level"] != "info"]
        await asyncio.to_thread(cluster.restart, 1)
        assert len(set(await asyncio.gather(*asking))) == 20
        await until(lambda: status_is(200))
    assert len(said) <= 12, said
    assert [line["message"] for line in said].count("broker_away") == 1
    assert not [line for line in said if line["level"] == "critical"]
    assert [line for line in lines(worker) if line["message"] == "broker_back"]
    refused = [line for line in lines(worker) if line["message"] == "request_failed"]
    assert refused == []
