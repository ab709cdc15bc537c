"""A gateway that starts, lives and stops: health, readiness and the drain."""

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
from streams.http.gateway import start_gateway
from tests.unit.streams.http.site import (
    PATIENCE_S,
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
    until,
)


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


async def test_liveness_answers_while_everything_else_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert (response.status_code, response.json()) == (503, {"status": "starting", "components": {}})
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
        await draining
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


BROKEN = """
import asyncio, os, signal, sys
from streams.faults import report_fault
from streams.http.limits import ConcurrencyLimit
from streams.http.serving import run
from streams.logs import configure_logging
from streams.settings import LoggingSettings, Settings

async def drained(self):
    report_fault(OSError("nobody answers"), "batches of a model")
    await asyncio.sleep(3600)

ConcurrencyLimit.drained = drained
configure_logging(LoggingSettings(), sys.stdout)
settings = Settings.model_validate({"http": {"port": 0}, "worker": {"drain_timeout_s": 3600}})
sys.exit(run(settings, on_listening=lambda url: os.kill(os.getpid(), signal.SIGTERM)))
"""


@pytest.mark.processes
def test_a_fault_of_the_process_while_it_drains_ends_it_at_once() -> None:
    serving = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=False)
    assert serving.returncode == 1, serving.stdout
    assert "nobody answers" in serving.stdout
    assert "timed_out" not in serving.stdout
