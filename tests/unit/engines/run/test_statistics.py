"""Counts are exact, latencies those of the latest requests, and memory is bounded."""

from __future__ import annotations

import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.run.results import STAGES, Result, ResultError, no_time
from engines.run.statistics import MOST_NAMES, OTHER, Statistics


def record(
    statistics: Statistics,
    task: str,
    model: str,
    engine: str,
    success: bool,
    processing_s: float,
    timings: dict[str, float] | None = None,
) -> None:
    statistics.record(
        Result(
            success=success,
            id="",
            task=task,
            engine=engine,
            model_name=model,
            error=None if success else ResultError("INFERENCE_FAILED", "broken", retryable=False),
            processing_time=processing_s,
            timestamp=0.0,
            timings=no_time() if timings is None else timings,
        )
    )


def test_nothing_inferred_yet_is_all_zeros() -> None:
    snapshot = Statistics().snapshot()
    assert (snapshot["total_inferences"], snapshot["success_rate"]) == (0, 0.0)
    assert snapshot["latency_s"] == {"count": 0, "mean": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0}


def test_counts_are_exact_under_sixteen_threads() -> None:
    statistics, barrier = Statistics(), threading.Barrier(16)

    def work(number: int) -> None:
        barrier.wait(20)
        for step in range(1000):
            record(
                statistics,
                f"task{number % 2}",
                f"model{number % 4}",
                "e",
                step % 4 != 0,
                0.5,
                no_time() | {"infer": 0.25},
            )

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    snapshot = statistics.snapshot()
    assert (snapshot["total_inferences"], snapshot["failed_inferences"]) == (16000, 4000)
    assert snapshot["success_rate"] == 0.75
    assert snapshot["tasks"]["task0"] == {"total": 8000, "succeeded": 6000, "failed": 2000}
    assert snapshot["models"]["model3"]["total"] == 4000
    assert snapshot["engines"]["e"]["succeeded"] == 12000
    assert snapshot["stage_mean_s"]["infer"] == 0.25


def test_a_request_whose_engine_never_was_known_is_in_the_count_of_none() -> None:
    statistics = Statistics()
    record(statistics, "t", "unknown", "", False, 0.1)
    snapshot = statistics.snapshot()
    assert (snapshot["total_inferences"], snapshot["tasks"]["t"]["failed"]) == (1, 1)
    assert snapshot["engines"] == {}


def test_percentiles_are_those_of_the_values() -> None:
    statistics = Statistics()
    for value in range(100, 0, -1):
        record(statistics, "t", "m", "e", True, float(value))
    assert statistics.snapshot()["latency_s"] == {
        "count": 100,
        "mean": 50.5,
        "p50": 50.0,
        "p95": 95.0,
        "p99": 99.0,
    }


def test_latencies_cover_the_latest_requests_only() -> None:
    statistics = Statistics(window=10)
    for value in [1000.0] * 10 + [1.0] * 10:
        record(statistics, "t", "m", "e", True, value)
    assert statistics.snapshot()["latency_s"]["mean"] == pytest.approx(1.0)
    assert statistics.snapshot()["total_inferences"] == 20


def test_names_that_come_in_ever_new_company_take_no_more_memory_and_are_counted_exactly() -> None:
    statistics = Statistics()
    tracemalloc.start()
    try:
        for model in range(200):
            for engine in range(200):
                record(statistics, "t", f"model{model}", f"engine{engine}", engine > 0, 0.1)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1_000_000
    snapshot = statistics.snapshot()
    assert snapshot["tasks"] == {"t": {"total": 40_000, "succeeded": 39_800, "failed": 200}}
    assert snapshot["models"]["model7"] == {"total": 200, "succeeded": 199, "failed": 1}
    assert snapshot["engines"]["engine0"] == {"total": 200, "succeeded": 0, "failed": 200}
    assert statistics.snapshot() == snapshot


def test_names_beyond_the_bound_are_counted_together() -> None:
    statistics = Statistics()
    for number in range(MOST_NAMES + 5):
        record(statistics, "t", f"made-up-{number}", "e", False, 0.1)
    models = statistics.snapshot()["models"]
    assert len(models) == MOST_NAMES + 1
    assert models[OTHER]["failed"] == 5


def test_the_mean_of_each_stage_is_over_all_requests_however_many_there_were() -> None:
    statistics = Statistics()
    for number in range(1000):
        record(statistics, "t", "m", "e", True, 0.1, dict(zip(STAGES, range(number, number + 7), strict=True)))
    expected = {stage: 499.5 + place for place, stage in enumerate(STAGES)}
    assert statistics.snapshot()["stage_mean_s"] == pytest.approx(expected)
    assert statistics.snapshot()["stage_mean_s"] == pytest.approx(expected)  # looking changes nothing


def test_a_request_without_stages_counts_as_one_that_took_no_time_in_them() -> None:
    statistics = Statistics()
    record(statistics, "t", "m", "e", True, 0.1, no_time() | {"infer": 1.0})
    record(statistics, "t", "m", "e", False, 0.1)
    assert statistics.snapshot()["stage_mean_s"] == no_time() | {"infer": 0.5}


def test_a_snapshot_is_json() -> None:
    statistics = Statistics()
    record(statistics, "t", "m", "e", True, 0.1, no_time() | {"queue": 0.1})
    assert json.loads(json.dumps(statistics.snapshot()))["total_inferences"] == 1
