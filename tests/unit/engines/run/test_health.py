"""How the manager says that it is well: a dead Ollama, a dead MLflow and a full disk are told apart, quickly."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.base import BaseEngine
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from engines.config.settings import CacheSettings, EngineSettings, OllamaSettings
from engines.inference import InferenceManager
from engines.models.model_manager import ModelManager
from engines.registry import EngineRegistry
from engines.run.health import LONGEST_S, HealthProbes
from handlers.errors import EngineUnavailable
from handlers.registry import HandlerRegistry
from tests.unit.engines.parts import Bench, ShoutEngine

DEADLINE_S = 20.0
ANSWERS = {"/health": "OK", "/api/version": {"version": "0.9"}, "/api/ps": {"models": []}}


class Server(BaseHTTPRequestHandler):
    """Answers as a well MLflow and a well Ollama would."""

    def do_GET(self) -> None:
        body = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def well() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def dead() -> str:
    """Return an address where nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def report(tmp_path: Path, *, mlflow: str, ollama: str, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
    """Return the health of a worker with these settings that nobody has asked anything yet.

    The tests' machine may be slow, so the bound is far above the real one unless it is what is tested.
    """
    settings = EngineSettings.model_validate(
        {
            "mlflow": {"tracking_uri": mlflow},
            "ollama": {"api_base": ollama},
            "cache": {"directory": tmp_path},
        }
    )
    engines = EngineRegistry(settings)
    try:
        return manager_of(
            ModelManager(settings.mlflow, settings.cache), engines, HealthProbes(timeout_s)
        ).health_check()
    finally:
        engines.unload()


def manager_of(models: ModelManager, engines: EngineRegistry, probes: HealthProbes) -> InferenceManager:
    cache = ModelCache(1, MemoryBudget(1))
    manager = InferenceManager(models=models, cache=cache, engines=engines, handlers=HandlerRegistry())
    manager._probes = probes
    return manager


def unwell(health: dict[str, Any]) -> set[str]:
    """Return the names of components and engines that are not ok."""
    components = dict(health["components"])
    engines = components.pop("engines")["engines"]
    return {name for name, part in {**components, **engines}.items() if part["status"] != "ok"}


def test_everything_well_is_ok(bench: Bench) -> None:
    bench.infer({"text": "hello"})
    health = bench.manager.health_check()
    assert health["status"] == "ok"
    assert set(health["components"]) == {"mlflow", "engines", "cache", "disk", "calls"}
    assert health["components"]["engines"]["engines"]["shouter"] == {"status": "ok"}


def test_servers_that_answer_are_well(tmp_path: Path, well: str) -> None:
    health = report(tmp_path, mlflow=well, ollama=well)
    assert health["status"] == "ok"
    assert health["components"]["engines"]["engines"]["ollama"]["version"] == "0.9"


def test_no_password_in_an_address_is_shown(tmp_path: Path, well: str, dead: str) -> None:
    address = dead.replace("http://", "http://someone:hunter2@")
    health = report(tmp_path, mlflow=address, ollama=well)
    assert "refused" in health["components"]["mlflow"]["error"]
    assert "hunter2" not in str(health)


def test_a_dead_mlflow_is_told_from_all_else(tmp_path: Path, well: str, dead: str) -> None:
    health = report(tmp_path, mlflow=dead, ollama=well)
    assert (health["status"], unwell(health)) == ("degraded", {"mlflow"})
    assert health["components"]["mlflow"]["tracking_uri"] == dead
    assert "refused" in health["components"]["mlflow"]["error"]


def test_a_dead_ollama_that_is_configured_is_told_from_all_else(tmp_path: Path, well: str, dead: str) -> None:
    health = report(tmp_path, mlflow=well, ollama=dead)
    assert (health["status"], unwell(health)) == ("degraded", {"ollama"})
    assert health["components"]["engines"]["status"] == "degraded"
    assert dead in json.dumps(health["components"]["engines"]["engines"]["ollama"])


def test_a_full_disk_is_told_from_all_else(tmp_path: Path, well: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.models.model_files.shutil.disk_usage", lambda path: SimpleNamespace(free=4096))
    health = report(tmp_path, mlflow=well, ollama=well)
    assert (health["status"], unwell(health)) == ("degraded", {"disk"})
    assert "the disk is full: 4096 bytes are free" in health["components"]["disk"]["error"]


def test_an_engine_that_was_asked_is_asked_how_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.infer({"text": "hello"})
    monkeypatch.setattr(bench.engine, "health", lambda: {"status": "error", "error": "gone"})
    engines = bench.manager.health_check()["components"]["engines"]["engines"]
    assert engines["shouter"] == {"status": "error", "error": "gone"}


def test_an_engine_that_nobody_asked_for_or_configured_is_not_made(bench: Bench) -> None:
    engines = bench.manager.health_check()["components"]["engines"]["engines"]
    assert engines["ollama"] == {"status": "ok", "made": False}
    assert bench.engines.made() == {}


def test_only_engines_with_settings_of_their_own_count_as_configured() -> None:
    assert EngineRegistry(EngineSettings()).configured() == []
    settings = EngineSettings(ollama=OllamaSettings(api_base="http://ollama:11434"))
    assert EngineRegistry(settings).configured() == ["ollama"]


def test_an_engine_that_cannot_be_made_is_an_error_that_says_why(tmp_path: Path) -> None:
    def cannot(config: Any) -> BaseEngine:
        raise EngineUnavailable("engine ollama cannot be made here: no module named httpx")

    engines = EngineRegistry(EngineSettings(ollama=OllamaSettings(auto_pull=False)))
    engines.register("ollama", cannot)
    models = ModelManager(EngineSettings().mlflow, CacheSettings(directory=tmp_path))
    health = manager_of(models, engines, HealthProbes(20)).health_check()
    assert health["components"]["engines"]["engines"]["ollama"] == {
        "status": "error",
        "error": "engine ollama cannot be made here: no module named httpx",
    }


def test_no_engine_that_works_is_an_error_of_the_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.engines, "names", lambda: ["shouter"])
    bench.infer({"text": "hello"})
    monkeypatch.setattr(ShoutEngine, "health", lambda self: {"status": "error"})
    assert bench.manager.health_check()["status"] == "error"


@pytest.mark.parametrize("component", ["mlflow", "disk", "shouter"])
def test_a_component_that_never_answers_is_an_error_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    bench = Bench(tmp_path)
    bench.manager._probes = HealthProbes(timeout_s=0.05)
    released, asked = threading.Event(), []

    def hang(*_: Any) -> dict[str, Any]:
        asked.append(component)
        released.wait()
        return {"status": "ok"}

    bench.infer({"text": "hello"})
    whose = {
        "mlflow": (bench.models, "health"),
        "disk": (bench.models.files, "health"),
        "shouter": (bench.engine, "health"),
    }[component]
    monkeypatch.setattr(*whose, hang)
    with ThreadPoolExecutor(1) as callers:
        try:
            for _ in range(3):
                health = callers.submit(bench.manager.health_check).result(DEADLINE_S)
                components = health["components"]
                told = {**components, **components["engines"]["engines"]}[component]
                assert told == {"status": "error", "error": "no answer within 0.05 s"}
        finally:
            released.set()
    assert asked == [component], "a probe that hangs must not be started again"


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # the system connects callers before accept is called
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.waits
@pytest.mark.parametrize("component", ["mlflow", "ollama"])
def test_a_server_that_never_answers_is_an_error_of_its_component_alone(
    tmp_path: Path, well: str, silent: str, component: str
) -> None:
    addresses = {"mlflow": well, "ollama": well, component: silent}
    health = report(tmp_path, mlflow=addresses["mlflow"], ollama=addresses["ollama"])
    assert (health["status"], unwell(health)) == ("degraded", {component})
    # Each asks with a patience of its own, so that nobody has to give up on it.
    assert "no answer within" not in json.dumps(health)


def test_servers_that_never_answer_hold_nobody_up_longer_than_the_bound(tmp_path: Path, silent: str) -> None:
    health = report(tmp_path, mlflow=silent, ollama=silent, timeout_s=0.05)
    assert {"mlflow", "ollama"} <= unwell(health)
    assert health["components"]["mlflow"]["error"] == "no answer within 0.05 s"
    assert health["components"]["engines"]["engines"]["ollama"]["error"] == "no answer within 0.05 s"


def test_the_bound_on_all_probes_together_keeps_the_promise_of_two_seconds(bench: Bench) -> None:
    assert LONGEST_S < 2
    assert bench.manager._probes._timeout_s == LONGEST_S


def test_a_probe_that_raises_is_an_error_that_says_what(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise OSError("no such device")

    monkeypatch.setattr(bench.models.files, "health", broken)
    disk = bench.manager.health_check()["components"]["disk"]
    assert disk == {"status": "error", "error": "OSError: no such device"}
