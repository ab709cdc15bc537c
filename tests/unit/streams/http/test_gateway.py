"""The gateway as a whole: its other routes, its readiness, how it starts and stops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.configuration import ConfigurationError
from handlers import model_registry
from handlers.errors import RegistryUnavailable
from streams.http.gateway import start_gateway
from streams.http.metrics import UNKNOWN
from tests.unit.streams.http.site import (
    PATIENCE_S,
    SHOUT,
    HttpSite,
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
    until,
)


async def test_an_unknown_path_is_an_ordinary_failure(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        error = assert_failure(await site.client.get("/inference/nothing"), 404, "INVALID_REQUEST")
    assert "/inference/nothing" in error["message"]


async def test_a_wrong_method_says_which_are_right(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await site.client.get("/inference/infer")
        assert_failure(response, 405, "INVALID_REQUEST")
        assert response.headers["Allow"] == "POST"
        response = await site.client.put("/inference/stats")
        assert response.headers["Allow"] == "GET, HEAD"


async def test_tasks_are_listed_with_engines_fields_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_registry, "tasks", lambda: ["shout", "sing"])
    async with http_site(tmp_path) as site:
        listing = (await site.client.get("/inference/tasks")).json()
    [shout] = listing["tasks"]
    assert shout["task"] == "shout"
    assert "shouter" in shout["engines"]
    assert "transformers" not in shout["engines"]
    assert shout["media_fields"] == ["media", "more"]
    assert shout["options_schema"]["type"] == ["object", "null"]
    [top_p] = [option for option in shout["options"] if option["name"] == "top_p"]
    assert (top_p["minimum"], top_p["maximum"]) == (0, 1)
    assert "from 0 to 1" in top_p["allowed"]
    assert "sing" in listing["unavailable"]["sing"]


async def test_models_are_listed_with_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_site(tmp_path) as site:
        monkeypatch.setattr(site.bench.models, "list_models", lambda: list(site.bench.models.models.values()))
        assert (await site.infer()).status_code == 200
        listing = (await site.client.get("/inference/models")).json()
    [tagged] = [model for model in listing["models"] if model["model_name"] == "tagged"]
    assert tagged == {
        "model_name": "tagged",
        "version": "3",
        "tasks": ["shout"],
        "engine": "shouter",
        "tags": {"task": "shout", "engine": "shouter"},
    }
    assert [model["model_name"] for model in listing["cached"]] == ["tagged"]


async def test_a_registry_that_is_away_is_told_by_the_list_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> list[Any]:
        raise RegistryUnavailable("MLflow is away")

    async with http_site(tmp_path) as site:
        monkeypatch.setattr(site.bench.models, "list_models", away)
        response = await site.client.get("/inference/models")
    assert_failure(response, 503, "REGISTRY_UNAVAILABLE")
    assert "Retry-After" in response.headers


def hanging_registry(site: HttpSite, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the registry answer nobody until the event that is returned is set."""
    released = threading.Event()

    def hangs() -> list[Any]:
        released.wait()
        return []

    monkeypatch.setattr(site.bench.models, "list_models", hangs)
    return released


async def test_a_registry_that_hangs_keeps_nothing_but_the_list_of_models_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with()
    mlflow = settings.mlflow.model_copy(update={"timeout_s": PATIENCE_S})
    async with http_site(tmp_path, settings.model_copy(update={"mlflow": mlflow})) as site:
        released = hanging_registry(site, monkeypatch)
        asking = [asyncio.create_task(site.client.get("/inference/models")) for _ in range(20)]
        try:
            for path in ("/readyz", "/inference/stats", "/metrics", "/inference/tasks", "/healthz"):
                assert (await site.client.get(path)).status_code == 200, path
            assert (await site.client.delete("/inference/cache")).status_code == 200
            assert not any(task.done() for task in asking)
        finally:
            released.set()
        assert {response.status_code for response in await asyncio.gather(*asking)} == {200}


async def test_a_registry_that_hangs_is_told_by_the_list_of_models_however_many_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with()
    away = {"timeout_s": 0.05, "tracking_uri": "http://me:hunter2@mlflow:5000"}
    mlflow = settings.mlflow.model_copy(update=away)
    async with http_site(tmp_path, settings.model_copy(update={"mlflow": mlflow})) as site:
        released = hanging_registry(site, monkeypatch)
        try:
            asking = [site.client.get("/inference/models") for _ in range(20)]
            for response in await asyncio.gather(*asking):
                error = assert_failure(response, 503, "REGISTRY_UNAVAILABLE")
                assert "did not list its models within mlflow.timeout_s=0.05" in error["message"]
                assert "hunter2" not in response.text
                assert "Retry-After" in response.headers
        finally:
            released.set()


async def test_the_list_of_tasks_makes_no_engine_that_nobody_uses(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        before = (await site.client.get("/readyz")).json()
        listing = (await site.client.get("/inference/tasks")).json()
        [asr] = [row for row in listing["tasks"] if row["task"] == "asr"]
        assert asr["engines"] == ["transformers"]
        assert not {"ollama", "transformers"} & set(site.bench.engines.made())
        after = (await site.client.get("/readyz")).json()
    assert (after["status"], before["status"]) == ("ok", "ok")
    assert after["components"]["engines"]["engines"]["ollama"] == {"status": "ok", "made": False}


async def test_callers_who_ask_for_health_together_share_one_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, checks = threading.Event(), []

    def slow() -> dict[str, Any]:
        checks.append("check")
        release.wait()
        return {"status": "ok", "components": {}}

    async with http_site(tmp_path) as site:
        monkeypatch.setattr(site.bench.manager, "health_check", slow)
        asking = [asyncio.create_task(site.gateway._health()) for _ in range(20)]
        try:
            await until(lambda: checks)
            leaving = asking.pop(0)
            leaving.cancel()
            await asyncio.wait([leaving])
        finally:
            release.set()
        assert [report["status"] for report in await asyncio.gather(*asking)] == ["ok"] * 19
        assert len(checks) == 1, "who leaves ends nobody else's check"
        assert (await site.client.get("/readyz")).status_code == 200
        assert len(checks) == 2, "an answer is never kept for those who come later"


async def test_over_http_tasks_are_served_that_the_worker_does_not_consume(tmp_path: Path) -> None:
    settings = settings_with()
    worker = settings.worker.model_copy(update={"tasks": ("asr",)})
    async with http_site(tmp_path, settings.model_copy(update={"worker": worker})) as site:
        assert (await site.infer()).json()["result"]["text"] == "HELLO"


async def test_statistics_and_the_cache_are_those_of_the_manager(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        await site.infer()
        await site.infer(data={"text": "refuse"})
        stats = (await site.client.get("/inference/stats")).json()
        assert stats == site.bench.manager.get_stats()
        assert (stats["total_inferences"], stats["success_rate"], stats["cached_models"]) == (2, 0.5, 1)
        assert (await site.client.delete("/inference/cache")).json() == {"cleared": 1, "in_use": []}
        assert (await site.client.get("/inference/stats")).json()["cached_models"] == 0
        assert site.bench.engine.unloaded == ["tagged"]


async def test_liveness_answers_while_everything_else_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hangs() -> dict[str, Any]:
        release.wait(PATIENCE_S)
        return {"status": "ok", "components": {}}

    async with http_site(tmp_path) as site:
        monkeypatch.setattr(site.bench.manager, "health_check", hangs)
        asking = [asyncio.create_task(site.client.get("/readyz")) for _ in range(20)]
        assert (await site.client.get("/healthz")).json() == {"status": "ok"}
        assert (await site.infer()).status_code == 200
        assert not any(task.done() for task in asking)
        release.set()
        assert {response.status_code for response in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize(("health", "status"), [("ok", 200), ("degraded", 200), ("error", 503)])
async def test_readiness_follows_the_health_of_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: str, status: int
) -> None:
    async with http_site(tmp_path) as site:
        monkeypatch.setattr(
            site.bench.manager, "health_check", lambda: {"status": health, "components": {"mlflow": {}}}
        )
        response = await site.client.get("/readyz")
    assert response.status_code == status
    assert response.json()["status"] == health


async def test_a_gateway_that_starts_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        site.gateway.is_ready = False
        response = await site.client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"status": "starting"})
        assert (await site.client.get("/healthz")).status_code == 200
        site.gateway.is_ready = True
        assert (await site.client.get("/readyz")).status_code == 200


async def test_a_gateway_that_stops_refuses_what_is_new_and_answers_what_it_has(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, pipeline=pipeline) as site:
        running = asyncio.create_task(site.infer(id="x-1"))
        await pipeline.started.wait()
        draining = asyncio.create_task(site.gateway.drain(PATIENCE_S))
        await until(lambda: site.gateway.admission.is_stopping)
        refused = await site.infer()
        assert_failure(refused, 503, "ENGINE_UNAVAILABLE")
        assert "Retry-After" in refused.headers
        assert refused.headers["Connection"] == "close"
        assert (await site.client.get("/readyz")).json() == {"status": "stopping"}
        assert (await site.client.get("/readyz")).status_code == 503
        assert (await site.client.get("/healthz")).status_code == 200
        assert not draining.done()
        pipeline.gate.set()
        assert (await running).json()["id"] == "x-1"
        assert await draining is True
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*site.address)


async def test_work_that_outlasts_the_drain_timeout_is_cancelled(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    settings = settings_with()
    worker = settings.worker.model_copy(update={"drain_timeout_s": 0.1})
    async with http_site(tmp_path, settings.model_copy(update={"worker": worker}), pipeline=pipeline) as site:
        running = asyncio.create_task(site.infer(id="x-1"))
        await pipeline.started.wait()
        running.add_done_callback(lambda task: task.exception())
    assert pipeline.cancelled == ["x-1"]
    with pytest.raises(httpx.TransportError):
        await running


async def test_a_port_that_is_taken_is_told_with_the_way_out(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        settings = settings_with(port=site.address[1])
        with pytest.raises(ConfigurationError, match=r"cannot listen on 127\.0\.0\.1:\d+: .* http\.port"):
            async with start_gateway(site.gateway._runtime, settings):
                raise AssertionError("the port was free")


def samples(text: str) -> dict[str, float]:
    """Return the samples of a scrape by their name and labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics_count_every_answer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_registry, "tasks", lambda: ["shout"])
    async with http_site(tmp_path) as site:
        await site.infer()
        await site.infer()
        await site.infer(data={"text": "refuse"})
        await site.infer(task="made up")
        await site.infer(engine="made up")
        await site.client.post("/inference/infer", content=b"hello")
        # Asked without HTTP, as a request from Kafka is:
        site.bench.infer({"text": "hello"})
        response = await site.client.get("/metrics")
        again = await site.client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = samples(response.text)
    counted = "inferstream_http_requests_total"
    assert {name: value for name, value in found.items() if name.startswith(counted)} == {
        f'{counted}{{code="OK",engine="shouter",task="shout"}}': 2,
        f'{counted}{{code="INVALID_INPUT",engine="shouter",task="shout"}}': 1,
        f'{counted}{{code="UNKNOWN_TASK",engine="shouter",task="{UNKNOWN}"}}': 1,
        f'{counted}{{code="UNKNOWN_ENGINE",engine="{UNKNOWN}",task="shout"}}': 1,
        f'{counted}{{code="UNDECODABLE",engine="{UNKNOWN}",task="{UNKNOWN}"}}': 1,
    }
    assert found['inferstream_http_request_seconds_count{engine="shouter",task="shout"}'] == 3
    assert found['inferstream_inferences_by_task_total{outcome="succeeded",task="shout"}'] == 3
    assert found['inferstream_inferences_by_task_total{outcome="failed",task="shout"}'] == 2
    assert found["inferstream_cached_models"] == 1
    assert found["inferstream_cached_model_bytes"] == 10
    assert found["inferstream_http_requests_in_flight"] == 0
    assert samples(again.text) == found | {
        name: value for name, value in samples(again.text).items() if "_created" in name
    }


async def test_metrics_show_what_is_in_work(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, pipeline=pipeline) as site:
        running = asyncio.create_task(site.infer())
        await pipeline.started.wait()
        found = samples((await site.client.get("/metrics")).text)
        assert found["inferstream_http_requests_in_flight"] == 1
        pipeline.gate.set()
        await running


async def test_two_gateways_count_for_themselves(tmp_path: Path) -> None:
    async with http_site(tmp_path / "a") as one, http_site(tmp_path / "b") as other:
        await one.infer()
        counted = "inferstream_http_requests_total"
        assert counted + "{" in (await one.client.get("/metrics")).text
        assert counted + "{" not in (await other.client.get("/metrics")).text


async def test_many_callers_at_once_are_all_answered(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        responses = await asyncio.gather(
            *(site.infer(id=f"x-{n}", data={"text": f"t{n}"}) for n in range(100))
        )
    assert [response.json()["result"]["text"] for response in responses] == [f"T{n}" for n in range(100)]
    assert [response.json()["id"] for response in responses] == [f"x-{n}" for n in range(100)]


def test_importing_the_gateway_imports_no_heavy_library() -> None:
    code = (
        "import sys, streams.http.gateway, streams.http.serving;"
        "print(sorted({'torch', 'transformers', 'mlflow', 'faust', 'boto3'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


async def test_a_request_that_is_no_http_harms_nobody(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        writer.write(b"\x16\x03\x01 no http\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        assert b"400" in answer.splitlines()[0]
        assert b"Traceback" not in answer
        assert (await site.infer(**SHOUT)).status_code == 200
