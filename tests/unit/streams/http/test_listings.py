"""The lists of tasks and models, also while the registry hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from handlers import model_registry
from handlers.errors import RegistryUnavailable
from tests.unit.streams.http.site import (
    PATIENCE_S,
    HttpSite,
    assert_failure,
    http_site,
    settings_with,
)


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


async def test_models_are_listed_with_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
