"""A load by transformers that never ends: what is in memory answers on, and no other load waits for it for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import initialization

from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from engines.deadlines import Patience
from engines.guard import Guard
from engines.inference import InferenceManager
from engines.models.resolved_model import ResolvedModel
from engines.registry import EngineRegistry
from engines.transformers import process_state
from engines.transformers.engine import TransformersEngine
from handlers.errors import EngineUnavailable
from handlers.registry import HandlerRegistry
from tests.device import on_this_machine
from tests.processes import wait_until
from tests.unit.engines.parts import KnownModels
from tests.unit.engines.tiny_models import save_llama

pytestmark = pytest.mark.waits

DEADLINE_S = 60.0
BRIEF_S = 1.0
TAGS = {"task": "text-generation", "engine": "transformers"}


class Folders(KnownModels):
    """Knows models by the folders they lie in."""

    def __init__(self, directory: Path) -> None:
        names = ("warm", "stuck", "cold")
        super().__init__(directory, *[ResolvedModel(name, "1", f"s3://b/{name}", TAGS) for name in names])
        self.folder = save_llama(directory / "llama")

    def folder_of(self, model: ResolvedModel) -> Path:
        return self.folder


class Site:
    """A manager over the transformers engine, in which the load of model `stuck` can be made to hang."""

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, own_s: dict[str, float], **settings: Any
    ) -> None:
        self.hangs, self.go_on = threading.Event(), threading.Event()
        self.guard = Guard(Patience(DEADLINE_S, own_s))
        self.engine = TransformersEngine(on_this_machine(**settings))
        engines = EngineRegistry()
        engines.register("transformers", lambda config: self.engine)
        self.manager = InferenceManager(
            models=Folders(directory),
            cache=ModelCache(None, MemoryBudget(10**9)),
            engines=engines,
            handlers=HandlerRegistry(),
            guard=self.guard,
        )
        without_ties = initialization.no_tie_weights

        @contextmanager
        def hanging(*args: Any, **kw: Any) -> Iterator[None]:
            with without_ties(*args, **kw):
                if not self.hangs.is_set() and self.is_armed:
                    self.hangs.set()
                    assert self.go_on.wait(DEADLINE_S)
                yield

        self.is_armed = False
        monkeypatch.setattr(initialization, "no_tie_weights", hanging)

    def ask(self, model_name: str) -> dict[str, Any]:
        return self.manager.infer(
            task="text-generation",
            model_name=model_name,
            data={"inputs": "a b"},
            options={"max_new_tokens": 2},
        )

    def error_of(self, model_name: str) -> dict[str, Any]:
        answer = self.ask(model_name)
        assert not answer["success"]
        error: dict[str, Any] = answer["error"]
        return error


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, monkeypatch, {"stuck": BRIEF_S})
    yield made
    made.go_on.set()
    assert wait_until(lambda: not made.manager.guard.stuck)
    made.manager.close()


@pytest.mark.logs_errors("call_stuck")
def test_a_load_that_never_ends_fails_the_loads_behind_it_with_its_name_and_nothing_else(site: Site) -> None:
    assert site.ask("warm")["success"]
    site.is_armed = True
    with ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(site.error_of, "stuck")
        assert site.hangs.wait(DEADLINE_S)
        behind = threads.submit(site.error_of, "cold")
        assert stuck.result(DEADLINE_S)["code"] == "INFERENCE_TIMEOUT"
        error = behind.result(DEADLINE_S)
    assert (error["code"], error["retryable"]) == ("ENGINE_UNAVAILABLE", True)
    assert "the load of transformers/text-generation/stuck/1" in error["message"]
    assert site.ask("warm")["success"]
    assert site.error_of("cold")["message"] == error["message"], "who comes later is told at once"
    assert site.manager.guard.stuck == ["the load of transformers/text-generation/stuck/1"]
    health = site.manager.health_check()
    assert health["status"] == "degraded"
    assert "stuck/1" in health["components"]["engines"]["engines"]["transformers"]["error"]
    site.go_on.set()
    assert wait_until(lambda: not site.manager.guard.stuck)
    assert site.ask("cold")["success"]
    assert site.manager.health_check()["components"]["engines"]["status"] == "ok"


def test_a_load_that_takes_its_time_is_no_fault_of_those_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_s = 5 * BRIEF_S  # a busy machine takes seconds for the load itself, and for the unload at the end
    site = Site(tmp_path, monkeypatch, {"cold": own_s})
    site.is_armed = True
    try:
        with ThreadPoolExecutor(2) as threads:
            slow = threads.submit(site.ask, "stuck")
            assert site.hangs.wait(DEADLINE_S)
            behind = threads.submit(site.ask, "cold")
            with pytest.raises(TimeoutError):
                behind.result(1.5 * own_s)
            site.go_on.set()
            assert slow.result(DEADLINE_S)["success"]
            assert behind.result(DEADLINE_S)["success"]
        assert site.guard.timeouts == 0
    finally:
        site.go_on.set()
        site.manager.close()


@pytest.mark.logs_errors("call_stuck")
def test_where_the_number_format_changes_for_a_load_that_hangs_runs_are_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch, {"stuck": BRIEF_S}, torch_dtype="bf16")
    try:
        assert site.ask("warm")["success"]
        site.is_armed = True
        assert site.error_of("stuck")["code"] == "INFERENCE_TIMEOUT"
        error = site.error_of("warm")
        assert (error["code"], error["retryable"]) == ("ENGINE_UNAVAILABLE", True)
        assert "stuck/1 has hung" in error["message"]
        site.go_on.set()
        assert wait_until(lambda: not site.manager.guard.stuck)
        assert site.ask("warm")["success"]
    finally:
        site.go_on.set()
        site.manager.close()


def test_code_of_others_that_loads_for_ever_is_named_by_its_thread() -> None:
    loads = process_state.LoadLock(patience_s=0.0)
    with ThreadPoolExecutor(1) as threads, loads.held(), pytest.raises(EngineUnavailable, match="MainThread"):
        threads.submit(loads.held().__enter__).result(DEADLINE_S)
    with loads.held(), loads.held():
        assert loads.problem is not None
    assert loads.problem is None


@pytest.mark.logs_errors("call_stuck")
def test_files_on_a_disk_that_hangs_count_as_a_load_that_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    is_here = threading.Event()
    models = site.manager.models

    def folder_of(model: ResolvedModel) -> Path:
        if model.name == "stuck":
            assert is_here.wait(DEADLINE_S)
        return folders(model)

    assert isinstance(models, Folders)
    folders = models.folder_of
    monkeypatch.setattr(models, "folder_of", folder_of)
    assert site.error_of("stuck")["code"] == "INFERENCE_TIMEOUT"
    assert site.manager.guard.stuck == ["the load of transformers/text-generation/stuck/1"]
    assert site.ask("cold")["success"], "it does not wait for a disk that it does not need"
    is_here.set()
    assert wait_until(lambda: not site.manager.guard.stuck)
    assert wait_until(lambda: not models.files_in_use["stuck/1"])
