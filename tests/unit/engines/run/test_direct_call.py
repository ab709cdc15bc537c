"""A request from Python: its result, its media, and what ends it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from engines.base import stop_if_unwanted
from engines.deadlines import Patience
from engines.guard import Guard
from engines.guarded_call import Call
from engines.run.direct_call import DirectCall, fetch_by_entry_point
from engines.run.executor import Execution
from engines.run.job import Job, Outcome
from engines.run.outcomes import Outcomes
from engines.run.results import STAGES
from engines.run.statistics import Statistics
from handlers.errors import Cancelled, InvalidInput
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.settings import S3Settings
from tests.prepared_job import new_job
from tests.processes import wait_until
from tests.unit.engines.parts import Bench, ShoutEngine, ShoutHandler, prepare


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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


def failed_after(bench: Bench, data: dict[str, Any], **request: Any) -> dict[str, float]:
    """Return the timings of a request that fails, all of whose time must be in them."""
    result = bench.infer(data, **request)
    assert not result["success"]
    timings: dict[str, float] = result["timings"]
    assert sum(timings.values()) == pytest.approx(result["processing_time"], abs=1e-6)
    return timings


@pytest.mark.logs_errors("inference_failed", "stage_failed")
def test_a_failed_request_has_the_stages_that_it_went_through(tmp_path: Path) -> None:
    def refuse(data: Mapping[str, Any], _fields: Sequence[str]) -> dict[str, Any]:
        if "media" not in data:
            return dict(data)
        time.sleep(0.01)
        raise InvalidInput("refused")

    bench = Bench(tmp_path, fetch_media=refuse)
    resolve = failed_after(bench, {"text": "x"}, model_name="nobody")
    assert resolve["resolve"] > 0
    assert not any(seconds for stage, seconds in resolve.items() if stage != "resolve")
    fetch = failed_after(bench, {"media": "s3://bucket/key"})
    assert fetch["fetch"] >= 0.01
    assert fetch["preprocess"] == fetch["infer"] == 0
    preprocess = failed_after(bench, {"text": "preprocess-bug"})
    assert preprocess["resolve"] > 0
    assert preprocess["preprocess"] > 0
    assert preprocess["infer"] == 0
    infer = failed_after(bench, {"text": "engine-bug"})
    assert infer["infer"] > 0
    assert infer["postprocess"] == 0
    postprocess = failed_after(bench, {"text": "postprocess-bug"})
    assert postprocess["postprocess"] > 0


def test_a_request_without_an_id_gets_one_of_its_own(bench: Bench) -> None:
    ids = {bench.infer({"text": "hello"})["id"] for _ in range(3)}
    assert len(ids) == 3
    assert "" not in ids


@pytest.mark.logs_errors("inference_failed")
def test_a_model_that_breaks_on_an_input_is_a_failed_inference(bench: Bench) -> None:
    assert bench.error_of({"text": "engine-bug"})["code"] == "INFERENCE_FAILED"


def test_a_wrong_keyword_is_a_programming_error_and_raises(bench: Bench) -> None:
    with pytest.raises(TypeError):
        bench.manager.infer(task="shout", engine="shouter", model="tagged", data={})  # type: ignore[call-arg]


async def test_infer_works_inside_a_running_event_loop(bench: Bench) -> None:
    assert bench.infer({"text": "hello"})["success"]


def test_media_become_bytes_before_the_handler_sees_them(tmp_path: Path) -> None:
    with closing(MediaFetcher(MediaSettings(), S3Settings())) as fetcher:
        bench = Bench(tmp_path, fetch_media=fetcher.resolve)
        assert bench.infer({"media": b"bytes"})["result"]["text"] == "BYTES"
        assert bench.infer({"media": "data:,uri"})["result"]["text"] == "URI"
        assert bench.error_of({"media": "gs://bucket/key"})["code"] == "INVALID_INPUT"


def test_prepare_raises_what_the_fetcher_raises(tmp_path: Path) -> None:
    def refuse(data: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
        raise InvalidInput(f"{data[fields[0]]} is refused")

    bench = Bench(tmp_path, fetch_media=refuse)
    with pytest.raises(InvalidInput, match="s3://bucket/key is refused"):
        prepare(bench, "", data={"media": "s3://bucket/key"})


def test_a_call_that_is_interrupted_stops_the_work_that_it_waits_for(bench: Bench) -> None:
    class Running(Future[Outcome]):
        """Work whose caller loses patience."""

        def result(self, timeout: float | None = None) -> Outcome:
            raise KeyboardInterrupt

    class Starts:
        """Starts the work, and never ends it."""

        def start(self, prepared: Job) -> Future[Outcome]:
            return running

    running = Running()
    type(bench.engine).continuous_tasks = frozenset({"shout"})
    try:
        call = DirectCall(
            bench.manager.resolver,
            cast(Execution, Starts()),
            fetch_by_entry_point,
            Outcomes(Statistics()),
            bench.manager.guard,
        )
        request: dict[str, Any] = {"task": "shout", "engine": "shouter", "model_name": "tagged"}
        with pytest.raises(KeyboardInterrupt):
            call.infer(new_job(**request, data={"text": "hello"}))
    finally:
        type(bench.engine).continuous_tasks = frozenset()
    assert running.cancelled()


def test_a_call_changes_threads_once_and_all_its_stages_run_in_that_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.infer({"text": "hello"})  # its load has a thread of its own
    threads: list[tuple[int, str]] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*given: Any) -> Any:
            threads.append((threading.get_ident(), threading.current_thread().name))
            return call(*given)

        return note

    starts: list[Call[Any]] = []
    start = Guard.start

    def counted(guard: Guard, call: Call[Any]) -> None:
        starts.append(call)
        start(guard, call)

    monkeypatch.setattr(Guard, "start", counted)
    for kind, name in ((ShoutHandler, "preprocess"), (ShoutEngine, "infer"), (ShoutHandler, "postprocess")):
        monkeypatch.setattr(kind, name, noted(getattr(kind, name)))
    assert bench.infer({"text": "hello"})["success"]
    here = threading.current_thread()
    assert len(starts) == 1
    assert len(threads) == 3
    [(ident, name)] = set(threads)
    assert ident != here.ident
    assert name == here.name


@pytest.mark.parametrize(("kind", "stage"), [(ShoutHandler, "preprocess"), (ShoutHandler, "postprocess")])
def test_a_deadline_ends_a_call_in_any_stage(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, kind: type, stage: str
) -> None:
    monkeypatch.setattr(kind, stage, lambda *_: gate.wait() and {})
    assert bench.error_of({"text": "hello"}, timeout=0.1)["code"] == "DEADLINE_EXCEEDED"


def test_a_deadline_ends_the_look_up_of_a_model(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = bench.models.resolve
    monkeypatch.setattr(bench.models, "resolve", lambda name: gate.wait() and resolve(name))
    assert bench.error_of({"text": "hello"}, timeout=0.1)["code"] == "DEADLINE_EXCEEDED"


def test_a_deadline_ends_a_fetch_and_nothing_begins_after_it(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = threading.Event()

    def fetch(data: Mapping[str, Any], _fields: Sequence[str]) -> dict[str, Any]:
        gate.wait()
        threading.Timer(0.1, fetched.set).start()
        return dict(data)

    begun: list[object] = []
    monkeypatch.setattr(ShoutHandler, "preprocess", lambda *given: begun.append(given))
    bench = Bench(tmp_path, fetch_media=fetch)
    assert bench.error_of({"text": "hello"}, timeout=0.1)["code"] == "DEADLINE_EXCEEDED"
    gate.set()
    assert fetched.wait(20)
    assert begun == []


def test_a_deadline_stops_a_batch_whose_engine_asks_whether_it_is_wanted(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def infer(*_: Any) -> dict[str, Any]:
        begun.set()
        try:
            while not gate.wait(0.01):
                stop_if_unwanted()
        except Cancelled:
            stopped.set()
            raise
        return {}

    monkeypatch.setattr(ShoutEngine, "infer", infer)
    for timeout in (0.1, 1.0, 10.0):  # on a busy machine the first may pass before the engine is called
        assert bench.error_of({"text": "hello"}, timeout=timeout)["code"] == "DEADLINE_EXCEEDED"
        if begun.is_set():
            break
    assert stopped.wait(20)


@pytest.mark.logs_errors("call_stuck")
def test_a_model_that_hangs_beyond_the_deadline_is_loaded_again(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer, hangs = ShoutEngine.infer, [True]

    def infer_or_hang(*given: Any) -> dict[str, Any]:
        if hangs:
            hangs.clear()
            gate.wait()
        return infer(*given)

    monkeypatch.setattr(ShoutEngine, "infer", infer_or_hang)
    bench.manager.guard.patience = Patience(1.0)
    assert bench.error_of({"text": "hello"}, timeout=0.1)["code"] == "DEADLINE_EXCEEDED"
    assert wait_until(lambda: bench.infer({"text": "hello"}, timeout=60)["success"])
    assert len(bench.engine.loaded) >= 2
    gate.set()
    assert wait_until(lambda: bench.manager.guard.stuck == [])


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_ctrl_c_stops_a_request_that_its_engine_takes_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    begun: Future[Any] = Future()

    def submit(*_: Any, **__: Any) -> Future[Any]:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        return begun

    monkeypatch.setattr(ShoutEngine, "submit", submit)
    monkeypatch.setattr(ShoutEngine, "continuous_tasks", frozenset({"shout"}))
    with pytest.raises(KeyboardInterrupt):
        bench.infer({"text": "hello"}, timeout=timeout)
    assert wait_until(begun.cancelled)
    assert wait_until(lambda: [row["leases"] for row in bench.manager.get_cached_models()] == [0])
