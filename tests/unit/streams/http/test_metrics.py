"""What the metrics count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from handlers import model_registry
from streams.http.metrics import UNKNOWN
from tests.unit.streams.http.site import (
    ScriptedPipeline,
    http_site,
)


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


@pytest.mark.logs_errors("inference_failed")
async def test_refusals_and_errors_are_counted_by_code_in_metrics_and_statistics(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        await site.infer({"task": "shout", "bogus": 1})
        await site.infer(data={"text": "engine-bug"})
        text = (await site.client.get("/metrics")).text
        stats = (await site.client.get("/inference/stats")).json()
    assert (stats["refusals"], stats["errors"]) == ({"INVALID_REQUEST": 1}, {"INFERENCE_FAILED": 1})
    assert 'inferstream_errors_total{code="INFERENCE_FAILED",task="(unknown)"} 1.0' in text
    assert 'inferstream_refusals_total{code="INVALID_REQUEST",task="(unknown)"} 1.0' in text


@pytest.mark.logs_errors("result_not_encodable")
async def test_an_answer_without_a_json_form_counts_as_the_failure_that_was_sent(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.reply = lambda request: {"odd": object()}
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await site.infer()
        stats = (await site.client.get("/inference/stats")).json()
    assert response.status_code == 500
    assert stats["errors"] == {"INTERNAL_ERROR": 1}
