"""Versions that change under load, through the manager: every request is answered, and by one version."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engines.cached_models import DEADLINE_S, wait_until
from tests.unit.engines.parts import Bench, prepare
from tests.unit.engines.version_engines import GrowingEngine, VersionEngine, stand_for, versions_in_memory


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.engine = VersionEngine()
    return bench


@pytest.fixture
def engine(bench: Bench) -> VersionEngine:
    assert isinstance(bench.engine, VersionEngine)
    return bench.engine


def test_eight_threads_asking_for_two_cold_models_cause_two_loads(bench: Bench, engine: VersionEngine) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> dict[str, Any]:
        barrier.wait(DEADLINE_S)
        return bench.infer({"text": "hello"}, model_name=("tagged", "plain")[number % 2])

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(ask, range(8)))
    assert all(result["success"] for result in results)
    assert engine.loads == {"tagged/3": 1, "plain/1": 1}


def test_an_alias_flipped_five_times_under_load_fails_no_request_and_mixes_no_versions(
    bench: Bench, engine: VersionEngine
) -> None:
    stop = threading.Event()
    seen: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []

    def ask() -> None:
        while not stop.is_set():
            result = bench.infer({"text": "hello"})
            seen[str(result["model_version"])] += 1
            if not result["success"] or result["result"]["text"] != result["model_version"]:
                wrong.append(result)

    def swaps() -> list[str]:
        return [key for kind, key in bench.told if kind == "model_swapped"]

    flips = ["4", "5", "4", "6", "7"]
    with ThreadPoolExecutor(8) as threads:
        workers = [threads.submit(ask) for _ in range(8)]
        try:
            wait_until(lambda: seen["3"] > 0)
            for number, version in enumerate(flips, start=1):
                stand_for(bench, version)
                # Not by the answers alone: one that was late may still come from the same version's last time.
                wait_until(lambda number=number: len(swaps()) == number)  # type: ignore[misc]
                before = seen[version]
                wait_until(lambda version=version, before=before: seen[version] > before)  # type: ignore[misc]
        finally:
            stop.set()
        for worker in workers:
            worker.result(DEADLINE_S)
    assert wrong == []
    assert set(seen) == {"3", "4", "5", "6", "7"}
    wait_until(lambda: versions_in_memory(bench) == {"7"})
    assert swaps() == [f"tagged/{version}" for version in flips]
    # What leaves is in memory no more as soon as its unload begins.
    wait_until(lambda: +bench.models.files_in_use == Counter({"tagged/7": 1}))


@pytest.mark.logs_errors("model_swap_failed")
def test_under_load_a_version_that_does_not_load_fails_no_request(bench: Bench, engine: VersionEngine) -> None:
    engine.broken_versions = {"4"}
    bench.infer({"text": "hello"})
    stand_for(bench, "4")
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: bench.infer({"text": "hello"}), range(80)))
    assert {result["model_version"] for result in results if result["success"]} == {"3"}
    assert all(result["success"] for result in results)
    wait_until(lambda: ("model_swap_failed", "tagged/4") in bench.told)
    assert bench.models.files_in_use["tagged/4"] == 0


def test_a_batch_formed_before_the_swap_runs_wholly_on_the_old_version(bench: Bench, engine: VersionEngine) -> None:
    bench.infer({"text": "hello"})
    before = [prepare(bench, "one"), prepare(bench, "two")]
    stand_for(bench, "4")
    wait_until(lambda: bench.infer({"text": "hello"})["model_version"] == "4")
    after = prepare(bench, "three")
    assert before[0].lane_key != after.lane_key
    assert bench.manager.execution.run(before) == [{"shouted": "3"}] * 2
    assert engine.loads["tagged/3"] == 1
    before.clear()
    wait_until(lambda: versions_in_memory(bench) == {"4"})


def test_an_answer_that_grows_keeps_its_version_until_it_is_complete(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine = engine = GrowingEngine()
    growing = bench.manager.execution.start(prepare(bench, "one"))
    stand_for(bench, "4")
    wait_until(lambda: prepare(bench, "two").model.version == "4")
    model, future = engine.started[0]
    assert model["version"] == "3"
    assert versions_in_memory(bench) == {"3", "4"}
    future.set_result({"shouted": "3"})
    assert growing.result(DEADLINE_S) == {"shouted": "3"}
    wait_until(lambda: versions_in_memory(bench) == {"4"})


def test_a_warmed_model_follows_its_name_without_requests(bench: Bench, engine: VersionEngine) -> None:
    bench.manager.warm("tagged")
    stand_for(bench, "4")
    bench.manager._versions.tend()
    wait_until(lambda: versions_in_memory(bench) == {"4"})


def test_a_warmed_model_whose_name_moves_while_it_loads_is_warm_in_its_new_version(
    bench: Bench, engine: VersionEngine
) -> None:
    def move() -> None:
        stand_for(bench, "4")
        bench.manager._versions.tend()

    engine.while_loading["3"] = move
    bench.manager.warm("tagged")
    assert engine.loads == {"tagged/3": 1, "tagged/4": 1}
    wait_until(lambda: versions_in_memory(bench) == {"4"})
    assert bench.infer({"text": "hello"})["model_version"] == "4"
    assert engine.loads["tagged/4"] == 1


def test_closing_unloads_all_versions(bench: Bench, engine: VersionEngine) -> None:
    bench.infer({"text": "hello"})
    stand_for(bench, "4")
    bench.infer({"text": "hello"})
    bench.manager.close()
    assert bench.manager.get_cached_models() == []
