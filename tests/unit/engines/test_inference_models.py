"""The models of the manager: what an engine is told of them, when they are loaded, unloaded and listed."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from pathlib import Path

import pytest

from engines.cache.cached_model import Loaded
from engines.models.resolved_model import ModelKey
from tests.unit.engines.parts import Bench, ShoutHandler


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_engine_gets_task_path_version_and_tags_of_the_model(bench: Bench) -> None:
    bench.infer({"text": "hello"})
    assert bench.engine.loaded == [
        {
            "name": "tagged",
            "task": "shout",
            "version": "3",
            "tags": {"task": "shout", "engine": "shouter"},
            "path": Path("/models/tagged/3"),
        }
    ]


def test_an_engine_that_needs_no_files_gets_no_path(bench: Bench) -> None:
    type(bench.engine).needs_files = False
    try:
        bench.infer({"text": "hello"})
    finally:
        type(bench.engine).needs_files = True
    assert "path" not in bench.engine.loaded[0]
    assert not bench.models.files_in_use


@pytest.mark.logs_errors("load_failed")
def test_a_model_that_does_not_load_says_why_and_is_tried_again(bench: Bench) -> None:
    bench.engine.broken = True
    error = bench.error_of({"text": "hello"})
    assert error["code"] == "MODEL_LOAD_FAILED"
    assert "tagged/3" in error["message"]
    assert "weights are gone" in error["message"]
    assert bench.models.files_in_use["tagged/3"] == 0
    bench.engine.broken = False
    assert bench.infer({"text": "hello"})["success"]


def test_files_are_in_use_from_the_load_to_the_unload(bench: Bench) -> None:
    bench.infer({"text": "hello"})
    assert bench.models.files_in_use["tagged/3"] == 1
    bench.manager.clear_cache()
    assert bench.models.files_in_use["tagged/3"] == 0
    assert bench.engine.unloaded == ["tagged"]


def test_a_listener_hears_of_loads_and_evictions(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_models=1)
    bench.infer({"text": "hello"})
    bench.infer({"text": "hello"}, model_name="plain")
    assert bench.told == [
        ("model_loaded", "tagged/3"),
        ("model_evicted", "tagged/3"),
        ("model_loaded", "plain/1"),
    ]


def test_a_cached_model_keeps_nothing_of_the_request_that_loaded_it(bench: Bench) -> None:
    class Text(str):
        """A text whose end can be seen."""

    text = Text("hello")
    watched = weakref.ref(text)
    assert bench.infer({"text": text})["success"]
    del text
    gc.collect()
    assert watched() is None


@pytest.mark.logs_errors("model_listener_failed")
def test_a_listener_that_fails_costs_nobody_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*news: object) -> None:
        raise RuntimeError("nobody listens")

    execution = bench.manager.execution
    monkeypatch.setattr(execution, "_loading_of", partial(execution._loading_of, on_model=broken))
    assert bench.infer({"text": "hello"})["success"]
    assert bench.manager.clear_cache()["cleared"] == 1
    assert bench.engine.unloaded == ["tagged"]


def test_cached_models_are_listed_with_their_parts(bench: Bench) -> None:
    bench.infer({"text": "hello"})
    (row,) = bench.manager.get_cached_models()
    assert {name: row[name] for name in ("engine", "task", "model_name", "version", "bytes", "hits", "leases")} == {
        "engine": "shouter",
        "task": "shout",
        "model_name": "tagged",
        "version": "3",
        "bytes": 10,
        "hits": 0,
        "leases": 0,
    }


def test_clearing_the_cache_names_the_models_that_stay(bench: Bench) -> None:
    bench.infer({"text": "hello"}, model_name="plain")
    with bench.manager.cache.lease(
        ModelKey("shouter", "shout", "busy", "2", ""), lambda make_room: Loaded("m", 1), lambda model: None
    ):
        assert bench.manager.clear_cache() == {"cleared": 1, "in_use": ["busy/2"], "kept": []}


def test_clearing_the_cache_keeps_what_was_warmed_unless_told_otherwise(bench: Bench) -> None:
    bench.manager.warm("tagged")
    bench.infer({"text": "hello"}, model_name="plain")
    assert bench.manager.clear_cache() == {"cleared": 1, "in_use": [], "kept": ["tagged/3"]}
    assert [row["model_name"] for row in bench.manager.get_cached_models()] == ["tagged"]
    assert bench.manager.clear_cache(include_warm=True) == {"cleared": 1, "in_use": [], "kept": []}
    bench.manager.close()


def test_an_engine_whose_loads_do_not_depend_on_the_task_loads_a_model_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(bench.engine), "loads_by_task", False)
    monkeypatch.setattr(type(bench.engine), "supported_tasks", frozenset())
    bench.manager.handlers.register_handler_manually("call", "call", ShoutHandler)
    for task in ("shout", "call", "shout"):
        assert bench.infer({"text": "hello"}, model_name="plain", task=task)["success"]
    assert len(bench.engine.loaded) == 1
    (row,) = bench.manager.get_cached_models()
    assert (row["task"], row["hits"]) == ("*", 2)
    assert bench.manager.clear_cache()["cleared"] == 1
