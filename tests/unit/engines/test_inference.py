"""The way of a request through the manager: what is checked when, what comes back, what is counted."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engines.inference import Prepared
from engines.results import STAGES
from handlers.errors import (
    InferenceError,
    InternalError,
    InvalidInput,
    ModelLoadFailed,
    ModelMismatch,
    RegistryUnavailable,
)
from tests.unit.engines.parts import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def prepare(bench: Bench, text: str, **changes: Any) -> Prepared:
    request = {
        "task": "shout",
        "engine": "shouter",
        "model_name": "tagged",
        "data": {"text": text},
        **changes,
    }
    return bench.manager.prepare(**request)


def test_an_answer_has_every_field_of_a_result(bench: Bench) -> None:
    result = bench.infer({"text": "hello"}, id="x-1", metadata={"batch": 7})
    assert result["success"] is True
    assert result["result"] == {"text": "HELLO", "metadata": {"length": 5}}
    assert result["error"] is None
    assert (result["task"], result["engine"], result["model_name"]) == ("shout", "shouter", "tagged")
    assert (result["id"], result["model_version"], result["metadata"]) == ("x-1", "3", {"batch": 7})
    assert tuple(result["timings"]) == STAGES
    assert result["processing_time"] >= sum(result["timings"].values())
    assert abs(result["timestamp"] - time.time()) < 60
    assert result["attempt"] == 1
    assert result["worker"]


def test_a_request_without_an_id_gets_one_of_its_own(bench: Bench) -> None:
    ids = {bench.infer({"text": "hello"})["id"] for _ in range(3)}
    assert len(ids) == 3
    assert "" not in ids


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"task": "sing"}, "UNKNOWN_TASK", "sing"),
        ({"engine": "steam"}, "UNKNOWN_ENGINE", "shouter"),
        ({"model_name": "nobody"}, "UNKNOWN_MODEL", "nobody"),
        ({"model_name": ""}, "INVALID_REQUEST", "model_name"),
        ({"model_name": None}, "INVALID_REQUEST", "model_name"),
        ({"data": "text"}, "INVALID_REQUEST", "data must be an object"),
        ({"data": {}}, "INVALID_INPUT", "data.text is required"),
        ({"data": {"text": "refuse"}}, "INVALID_INPUT", "refused"),
        ({"data": {"text": "value-error"}}, "INVALID_INPUT", "text must not be"),
        ({"options": {"temperature": -1}}, "INVALID_OPTION", "temperature"),
        ({"options": [1]}, "INVALID_OPTION", "options"),
        ({"task": "text-generation"}, "INVALID_REQUEST", "it runs shout"),
        ({"model_name": "other-task"}, "MODEL_MISMATCH", "task=asr"),
        ({"model_name": "other-engine"}, "MODEL_MISMATCH", "engine=ollama"),
    ],
)
def test_a_wrong_request_gets_an_error_that_says_what_is_wrong(
    bench: Bench, changes: dict[str, Any], code: str, says: str
) -> None:
    error = bench.error_of(**{"data": {"text": "hello"}, **changes})
    assert error["code"] == code
    assert says in error["message"]
    assert error["retryable"] is False
    assert bench.engine.loaded == []


def test_what_is_cheap_to_refuse_never_reaches_the_registry(bench: Bench) -> None:
    bench.infer({"text": "hello"}, task="sing")
    bench.infer({"text": "hello"}, engine="steam")
    bench.infer({"text": "hello"}, options={"temperature": -1})
    bench.infer("no object")
    assert not bench.models.asked


def test_a_registry_that_is_away_is_an_error_to_retry(bench: Bench) -> None:
    bench.models.resolve_error = RegistryUnavailable("MLflow is away")
    error = bench.error_of({"text": "hello"})
    assert (error["code"], error["retryable"]) == ("REGISTRY_UNAVAILABLE", True)


def test_a_mismatch_says_the_tag_what_it_says_and_what_the_request_said(bench: Bench) -> None:
    with pytest.raises(ModelMismatch, match=r"other-task/1 .* task=asr, .* task=shout"):
        prepare(bench, "hello", model_name="other-task")


def test_a_model_without_tags_serves_any_task(bench: Bench) -> None:
    assert bench.infer({"text": "hello"}, model_name="plain")["success"]


@pytest.mark.parametrize("text", ["preprocess-bug", "postprocess-bug"])
def test_a_bug_in_a_handler_is_an_internal_error_that_hides_its_details(bench: Bench, text: str) -> None:
    error = bench.error_of({"text": text})
    assert error["code"] == "INTERNAL_ERROR"
    assert "a bug" not in error["message"]


def test_a_model_that_breaks_on_an_input_is_a_failed_inference(bench: Bench) -> None:
    assert bench.error_of({"text": "engine-bug"})["code"] == "INFERENCE_FAILED"


def test_a_wrong_keyword_is_a_programming_error_and_raises(bench: Bench) -> None:
    with pytest.raises(TypeError):
        bench.manager.infer(task="shout", engine="shouter", model="tagged", data={})  # type: ignore[call-arg]


async def test_infer_works_inside_a_running_event_loop(bench: Bench) -> None:
    assert bench.infer({"text": "hello"})["success"]


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


def test_a_listener_that_fails_costs_nobody_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*news: object) -> None:
        raise RuntimeError("nobody listens")

    monkeypatch.setattr(bench.manager._execution, "_on_model", broken)
    assert bench.infer({"text": "hello"})["success"]
    assert bench.manager.clear_cache()["cleared"] == 1
    assert bench.engine.unloaded == ["tagged"]


def test_a_bad_item_of_a_batch_does_not_cost_its_neighbours_their_answers(bench: Bench) -> None:
    batch = [prepare(bench, text) for text in ("one", "engine-bug", "three")]
    first, second, third = bench.manager.execute(batch)
    assert (first, third) == ({"shouted": "ONE"}, {"shouted": "THREE"})
    assert isinstance(second, InferenceError)
    assert second.code == "INFERENCE_FAILED"
    assert all({"fetch", "preprocess", "wait", "infer"} <= set(one.timings) for one in batch)


def test_a_batch_whose_model_does_not_load_fails_item_by_item(bench: Bench) -> None:
    bench.engine.broken = True
    outcomes = bench.manager.execute([prepare(bench, "one"), prepare(bench, "two")])
    assert [type(outcome) for outcome in outcomes] == [ModelLoadFailed] * 2


def test_an_engine_that_loses_items_is_told_so_for_each_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.engine, "infer_batch", lambda model, inputs, options: [{"shouted": "ONE"}])
    outcomes = bench.manager.execute([prepare(bench, "one"), prepare(bench, "two")])
    assert [type(outcome) for outcome in outcomes] == [InternalError] * 2


def test_an_engine_that_returns_no_dict_fails_that_item_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        bench.engine, "infer_batch", lambda model, inputs, options: [{"shouted": "ONE"}, "TWO"]
    )
    first, second = bench.manager.execute([prepare(bench, "one"), prepare(bench, "two")])
    assert first == {"shouted": "ONE"}
    assert isinstance(second, InternalError)


def test_an_empty_batch_has_no_outcomes(bench: Bench) -> None:
    assert bench.manager.execute([]) == []
    assert bench.engine.loaded == []


def test_requests_share_a_batch_when_engine_model_task_and_the_engines_own_key_agree(bench: Bench) -> None:
    keys = [
        prepare(bench, "a").batch_key,
        prepare(bench, "b").batch_key,
        prepare(bench, "a", options={"top_k": 5}).batch_key,
        prepare(bench, "a", model_name="plain").batch_key,
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_media_become_bytes_before_the_handler_sees_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.infer({"media": b"bytes"})["result"]["text"] == "BYTES"
    assert bench.infer({"media": "data:,uri"})["result"]["text"] == "URI"
    assert bench.error_of({"media": "s3://bucket/key"})["code"] == "INVALID_INPUT"


def test_prepare_raises_what_the_fetcher_raises(tmp_path: Path) -> None:
    def refuse(address: str) -> Any:
        raise InvalidInput(f"{address} is refused")

    bench = Bench(tmp_path, fetch_media=refuse)
    with pytest.raises(InvalidInput, match="s3://bucket/key is refused"):
        prepare(bench, "", data={"media": "s3://bucket/key"})


def test_the_statistics_count_successes_and_failures_by_task_model_and_engine(bench: Bench) -> None:
    for text in ("one", "two", "refuse"):
        bench.infer({"text": text})
    stats = bench.manager.get_stats()
    assert (stats["total_inferences"], stats["success_rate"]) == (3, 2 / 3)
    assert stats["tasks"] == {"shout": {"total": 3, "succeeded": 2, "failed": 1}}
    assert stats["models"]["tagged"]["total"] == 3
    assert stats["engines"]["shouter"]["failed"] == 1
    assert (stats["cache_hits"], stats["cache_misses"], stats["cache_hit_rate"]) == (1, 1, 0.5)
    assert stats["latency_s"]["count"] == 3


def test_counts_are_exact_under_sixteen_threads(bench: Bench) -> None:
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        barrier.wait(20)
        for step in range(25):
            bench.infer({"text": "refuse" if step % 5 == 0 else f"{number}"})

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    stats = bench.manager.get_stats()
    assert (stats["total_inferences"], stats["failed_inferences"]) == (400, 80)
    assert stats["models"]["tagged"] == {"total": 400, "succeeded": 320, "failed": 80}
    assert stats["cache_hits"] + stats["cache_misses"] == 320
    assert len(bench.engine.loaded) == 1


def test_cached_models_are_listed_with_their_parts(bench: Bench) -> None:
    bench.infer({"text": "hello"})
    (row,) = bench.manager.get_cached_models()
    assert {
        name: row[name] for name in ("engine", "task", "model_name", "version", "bytes", "hits", "leases")
    } == {
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
    with bench.manager.cache.lease("shouter/shout/busy/2", lambda: ("m", 1), lambda model: None):
        assert bench.manager.clear_cache() == {"cleared": 1, "in_use": ["busy/2"]}


def test_everything_well_is_ok(bench: Bench) -> None:
    bench.infer({"text": "hello"})
    health = bench.manager.health_check()
    assert health["status"] == "ok"
    assert set(health["components"]) == {"mlflow", "engines", "cache", "disk"}
    assert health["components"]["engines"]["engines"]["shouter"] == {"status": "ok"}


def test_a_component_that_is_unwell_degrades_and_is_told_apart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.infer({"text": "hello"})
    monkeypatch.setattr(bench.models, "health", lambda: {"status": "error", "error": "refused"})
    health = bench.manager.health_check()
    assert health["status"] == "degraded"
    assert {name: part["status"] for name, part in health["components"].items()} == {
        "mlflow": "error",
        "engines": "ok",
        "cache": "ok",
        "disk": "ok",
    }


def test_a_component_that_hangs_is_an_error_and_holds_nobody_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, asked = threading.Event(), 0

    def hang() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        hung.wait(60)
        return {"status": "ok"}

    monkeypatch.setattr(bench.models, "health", hang)
    monkeypatch.setattr(bench.manager._probes, "_timeout_s", 0.05)
    try:
        for _ in range(3):
            mlflow = bench.manager.health_check()["components"]["mlflow"]
            assert mlflow["status"] == "error"
            assert "no answer within" in mlflow["error"]
        assert asked == 1, "a probe that hangs must not be started again"
    finally:
        hung.set()


def test_a_full_disk_is_an_error_of_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.model_files.LEAST_FREE_BYTES", 2**62)
    health = bench.manager.health_check()
    assert health["status"] == "degraded"
    assert "the disk is full" in health["components"]["disk"]["error"]


def test_importing_the_managers_brings_in_no_heavy_library() -> None:
    script = (
        "import sys; import engines.inference, engines.models; "
        "from engines import inference_manager; assert inference_manager.get_stats()['total_inferences'] == 0; "
        "print(sorted({'torch', 'transformers', 'mlflow', 'faust', 'boto3'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
