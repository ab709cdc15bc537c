"""What the manager counts, exactly, however many threads ask."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.engines.parts import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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
