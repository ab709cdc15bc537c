"""Requests that run one by one on a shared model: their outcomes, their leases and their cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engines.base import NO_HURRY, Emit, Urgency, begin_later
from engines.run.job import Job
from handlers.errors import Busy, Cancelled, InferenceError, InternalError, ModelMismatch
from tests.prepared_job import prepared_job
from tests.unit.engines.parts import Bench, ShoutEngine


class PatientEngine(ShoutEngine):
    """Takes requests as they come; each ends when the test says how."""

    continuous_tasks = frozenset({"shout"})

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Future[dict[str, Any]]] = []
        self.urgencies: list[Urgency] = []
        self.refusal: Exception | None = None
        self.queues = False
        self.begin: list[Callable[[], None]] = []
        self.has_unloaded = threading.Event()

    def unload_model(self, model: Any) -> bool:
        self.has_unloaded.set()
        return super().unload_model(model)

    def submit(
        self,
        model: Any,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        if self.refusal is not None:
            raise self.refusal
        if emit is not None:
            emit("piece")
        if self.queues:
            self.begin.append(begin_later())
        self.urgencies.append(urgency)
        self.started.append(Future())
        return self.started[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.engine = PatientEngine()
    return bench


@pytest.fixture
def engine(bench: Bench) -> PatientEngine:
    assert isinstance(bench.engine, PatientEngine)
    return bench.engine


@pytest.fixture
def prepared(bench: Bench) -> Job:
    return prepared_job(bench.manager, task="shout", engine="shouter", model_name="tagged", data={"text": "hey"})


def leases(bench: Bench) -> int:
    return sum(entry["leases"] for entry in bench.manager.cache.entries())


def test_two_requests_overlap_on_one_model(bench: Bench, engine: PatientEngine, prepared: Job) -> None:
    first, second = bench.manager.execution.start(prepared), bench.manager.execution.start(prepared)
    assert len(engine.started) == 2
    assert len(engine.loaded) == 1
    assert leases(bench) == 2
    engine.started[1].set_result({"shouted": "SECOND"})
    assert second.result(timeout=30) == {"shouted": "SECOND"}
    assert leases(bench) == 1
    engine.started[0].set_result({"shouted": "FIRST"})
    assert first.result(timeout=30) == {"shouted": "FIRST"}
    assert leases(bench) == 0


def test_a_request_is_told_whether_its_model_is_in_memory(bench: Bench, prepared: Job) -> None:
    assert not bench.manager.execution.is_loaded(prepared)
    bench.manager.execution.start(prepared)
    assert bench.manager.execution.is_loaded(prepared)


def test_the_engine_is_told_how_urgent_a_request_is(bench: Bench, engine: PatientEngine, prepared: Job) -> None:
    prepared.urgency = (-9, 1234.0)
    bench.manager.execution.start(prepared)
    assert engine.urgencies == [(-9, 1234.0)]


def test_an_error_of_the_engine_is_the_outcome(bench: Bench, engine: PatientEngine, prepared: Job) -> None:
    outcome = bench.manager.execution.start(prepared)
    engine.started[0].set_exception(Busy("full"))
    assert isinstance(outcome.result(timeout=30), Busy)
    assert leases(bench) == 0


@pytest.mark.parametrize("failure", [ValueError("a bug"), Busy("full")])
@pytest.mark.logs_errors("execute_failed")
def test_an_engine_that_refuses_at_once_leaves_no_lease(
    bench: Bench, engine: PatientEngine, prepared: Job, failure: Exception
) -> None:
    engine.refusal = failure
    outcome = bench.manager.execution.start(prepared).result(timeout=30)
    assert isinstance(outcome, InferenceError)
    assert outcome.code == ("BUSY" if isinstance(failure, Busy) else "INTERNAL_ERROR")
    assert leases(bench) == 0


def test_a_request_has_begun_when_the_engine_took_it_or_says_so(
    bench: Bench, engine: PatientEngine, prepared: Job
) -> None:
    states = [prepared.has_begun]
    bench.manager.execution.start(prepared).cancel()
    states.append(prepared.has_begun)
    engine.queues = True
    outcome = bench.manager.execution.start(prepared)
    states.append(prepared.has_begun)
    [begin] = engine.begin
    begin()
    assert [*states, prepared.has_begun] == [False, True, False, True]
    outcome.cancel()


def test_cancelling_reaches_the_engine_and_frees_the_model(bench: Bench, engine: PatientEngine, prepared: Job) -> None:
    outcome = bench.manager.execution.start(prepared)
    assert outcome.cancel()
    assert engine.started[0].cancelled()
    assert leases(bench) == 0


def test_a_request_that_the_engine_drops_ends_as_cancelled(bench: Bench, engine: PatientEngine, prepared: Job) -> None:
    outcome = bench.manager.execution.start(prepared)
    engine.started[0].cancel()
    assert isinstance(outcome.result(timeout=30), Cancelled)


def test_what_is_no_dict_is_an_internal_error(bench: Bench, engine: PatientEngine, prepared: Job) -> None:
    outcome = bench.manager.execution.start(prepared)
    engine.started[0].set_result(["HEY"])  # type: ignore[arg-type]
    assert isinstance(outcome.result(timeout=30), InternalError)


def test_the_answer_is_heard_as_it_grows(bench: Bench, prepared: Job) -> None:
    heard: list[str] = []
    bench.manager.execution.start(prepared, heard.append)
    assert heard == ["piece"]


def test_a_python_call_waits_for_a_continuous_engine(bench: Bench, engine: PatientEngine) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(bench.infer, {"text": "hey"})
        deadline = threading.Event()
        while not engine.started and not result.done():
            deadline.wait(0.01)
        engine.started[0].set_result({"shouted": "HEY"})
        assert result.result(timeout=30)["result"]["text"] == "HEY"


def test_a_shared_model_over_the_budget_is_unloaded_when_its_last_user_is_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_models=1)
    bench.engine = engine = PatientEngine()
    outcomes = [
        bench.manager.execution.start(
            prepared_job(bench.manager, task="shout", engine="shouter", model_name=name, data={"text": "a"})
        )
        for name in ("tagged", "plain")
    ]
    assert len(bench.manager.cache.entries()) == 2
    engine.started[0].set_result({"shouted": "A"})
    outcomes[0].result(timeout=30)
    assert engine.has_unloaded.wait(30)
    engine.started[1].set_result({"shouted": "A"})
    outcomes[1].result(timeout=30)


def test_a_warmed_model_is_there_before_its_first_request(bench: Bench, engine: PatientEngine) -> None:
    bench.manager.warm("tagged")
    assert [model["model_name"] for model in bench.manager.get_cached_models()] == ["tagged"]
    assert leases(bench) == 0
    bench.manager.execution.start(
        prepared_job(bench.manager, task="shout", engine="shouter", model_name="tagged", data={"text": "a"})
    )
    assert len(engine.loaded) == 1


def test_a_model_without_tags_cannot_be_warmed(bench: Bench) -> None:
    with pytest.raises(ModelMismatch, match="plain/1 cannot be loaded ahead: its tags name no task"):
        bench.manager.warm("plain")
