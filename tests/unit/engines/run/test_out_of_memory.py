"""A worker without memory: whatever stage it runs out in, the request may be sent again, and says what to do."""

from __future__ import annotations

import errno
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import InferenceError
from tests.unit.engines.parts import Bench, ShoutEngine, ShoutHandler, prepare

ERRORS = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"),
]
"""As Python, the system, and libraries such as torch say it."""


def fails(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def check(error: dict[str, Any], *said: str) -> None:
    assert (error["code"], error["retryable"]) == ("OUT_OF_MEMORY", True), error["message"]
    assert "ran out of memory" in error["message"]
    assert "again later" in error["message"]
    assert "more memory" in error["message"]
    for words in said:
        assert words in error["message"]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("stage", ["preprocess", "postprocess"])
@pytest.mark.logs_errors("stage_failed")
def test_in_a_handler(tmp_path: Path, stage: str, error: BaseException) -> None:
    hungry = type("Hungry", (ShoutHandler,), {stage: fails(error)})
    check(Bench(tmp_path, handler=hungry).error_of({"text": "hello"}), f"{stage} of task shout")


@pytest.mark.logs_errors("handler_not_made")
def test_where_a_handler_is_made(tmp_path: Path) -> None:
    hungry = type("Hungry", (ShoutHandler,), {"__init__": fails(MemoryError())})
    check(Bench(tmp_path, handler=hungry).error_of({"text": "hello"}))


@pytest.mark.logs_errors("engine_not_made")
def test_where_an_engine_is_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engines.register("shouter", fails(MemoryError()))
    check(bench.error_of({"text": "hello"}), "engine shouter")


@pytest.mark.logs_errors("stage_failed")
def test_where_media_are_fetched(tmp_path: Path) -> None:
    check(
        Bench(tmp_path, fetch_media=fails(MemoryError())).error_of({"media": "s3://b/k"}),
        "fetch of task shout",
    )


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.logs_errors("load_failed")
def test_where_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(ShoutEngine, "load_model", fails(error))
    check(Bench(tmp_path).error_of({"text": "hello"}), "engine shouter", "tagged/3", "cache.max_bytes")


@pytest.mark.logs_errors("load_failed")
def test_a_load_is_tried_once_more_without_the_idle_models(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.infer({"text": "hello"}, model_name="plain")
    load = bench.engine.load_model

    def hungry(name: str, **kw: Any) -> Any:
        if not bench.engine.unloaded:
            raise MemoryError
        return load(name, **kw)

    bench.engine.load_model = hungry  # type: ignore[method-assign]
    assert bench.infer({"text": "hello"}, model_name="tagged")["success"]
    assert bench.engine.unloaded == ["plain"]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.logs_errors("inference_failed")
def test_in_an_engine_that_runs_one_input_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(ShoutEngine, "infer", fails(error))
    check(Bench(tmp_path).error_of({"text": "hello"}), "engine shouter")


@pytest.mark.logs_errors("execute_failed")
def test_of_a_batch_only_those_fail_that_do_not_fit_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer_batch(_: ShoutEngine, __: Any, inputs: Any, ___: Any) -> list[dict[str, Any]]:
        if len(inputs) > 1 or inputs[0]["text"] == "large":
            raise MemoryError
        return [{"shouted": inputs[0]["text"].upper()}]

    monkeypatch.setattr(ShoutEngine, "infer_batch", infer_batch)
    bench = Bench(tmp_path)
    jobs = [prepare(bench, text) for text in ("a", "large", "b")]
    small, large, other = bench.manager.execution.run(jobs)
    assert (small, other) == ({"shouted": "A"}, {"shouted": "B"})
    assert isinstance(large, InferenceError)
    check({"code": large.code, "retryable": large.retryable, "message": large.message}, "tagged/3", "shouter")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.logs_errors("execute_failed")
def test_in_an_engine_that_takes_requests_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    def submit(*_: Any, **__: Any) -> Future[Any]:
        if at_once:
            raise MemoryError
        answer: Future[Any] = Future()
        answer.set_exception(MemoryError())
        return answer

    monkeypatch.setattr(ShoutEngine, "submit", submit)
    monkeypatch.setattr(ShoutEngine, "continuous_tasks", frozenset({"shout"}))
    check(Bench(tmp_path).error_of({"text": "hello"}), "tagged/3", "shouter")
