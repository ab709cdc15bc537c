"""The model cache under real threads, held at known points by events and barriers: loads, leases, counts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import ANY

import pytest

from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from handlers.errors import EngineUnavailable, ModelLoadFailed
from tests.unit.engines.cached_models import DEADLINE_S, Model, Models, keys, wait_until


@pytest.fixture
def models() -> Models:
    return Models(ModelCache(max_models=2, budget=MemoryBudget(100)))


def test_eight_threads_asking_for_two_cold_models_cause_two_loads(models: Models) -> None:
    barrier = threading.Barrier(8)

    def ask(number: int) -> Model:
        barrier.wait(DEADLINE_S)
        return models.use("ab"[number % 2])

    with ThreadPoolExecutor(8) as threads:
        used = list(threads.map(ask, range(8)))

    assert models.loads == {"a": 1, "b": 1}
    assert len({id(model) for model in used}) == 2
    assert (models.cache.misses, models.cache.hits) == (2, 6)


def test_a_slow_load_does_not_block_another_model(models: Models) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        loading.set()
        assert go_on.wait(DEADLINE_S)

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(models.use, "slow", before=slowly)
        assert loading.wait(DEADLINE_S)
        assert models.use("quick").key == "quick"
        assert keys(models.cache) == ["quick"]
        go_on.set()
        assert slow.result(DEADLINE_S).key == "slow"


def test_a_model_counts_as_loaded_from_the_end_of_its_load_until_it_leaves(models: Models) -> None:
    seen = []
    assert not models.cache.is_loaded("a")
    models.use("a", before=lambda: seen.append(models.cache.is_loaded("a")))
    assert (seen, models.cache.is_loaded("a")) == ([False], True)
    models.cache.clear()
    assert not models.cache.is_loaded("a")


def test_a_failed_load_reaches_every_waiter_and_the_next_call_tries_again(models: Models) -> None:
    loading, go_on, failure = threading.Event(), threading.Event(), ModelLoadFailed("no weights")

    def fail() -> None:
        loading.set()
        assert go_on.wait(DEADLINE_S)
        raise failure

    def ask() -> BaseException | None:
        try:
            models.use("a", before=fail)
        except ModelLoadFailed as error:
            return error
        return None

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask)]
        assert loading.wait(DEADLINE_S)
        asked += [threads.submit(ask) for _ in range(3)]
        wait_until(lambda: models.cache.hits == 3)
        go_on.set()
        assert [future.result(DEADLINE_S) for future in asked] == [failure] * 4

    assert models.loads["a"] == 1
    assert keys(models.cache) == []
    assert models.use("a").key == "a"
    assert models.loads["a"] == 2


def test_waiters_of_an_interrupted_load_get_an_error_that_can_be_retried(models: Models) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def interrupted() -> None:
        loading.set()
        assert go_on.wait(DEADLINE_S)
        raise KeyboardInterrupt

    def ask() -> BaseException | None:
        try:
            models.use("a", before=interrupted)
        except BaseException as error:  # noqa: BLE001 - the interrupt itself is what the test looks for
            return error
        return None

    with ThreadPoolExecutor(2) as threads:
        loader = threads.submit(ask)
        assert loading.wait(DEADLINE_S)
        waiter = threads.submit(ask)
        wait_until(lambda: models.cache.hits == 1)
        go_on.set()
        assert isinstance(loader.result(DEADLINE_S), KeyboardInterrupt)
        error = waiter.result(DEADLINE_S)

    assert isinstance(error, EngineUnavailable)
    assert error.retryable


def test_runs_of_one_model_never_overlap(models: Models) -> None:
    barrier = threading.Barrier(8)

    def run(_: int) -> None:
        barrier.wait(DEADLINE_S)
        for _ in range(20):
            with models.lease("a") as model:
                assert model.running.acquire(blocking=False), "two runs at once"
                model.running.release()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))
    assert models.loads["a"] == 1


def test_an_error_of_the_user_ends_the_lease(models: Models) -> None:
    with pytest.raises(ZeroDivisionError), models.lease("a"):
        raise ZeroDivisionError
    assert models.cache.entries()[0]["leases"] == 0
    assert models.use("a").key == "a"


def test_entries_say_size_age_hits_and_leases() -> None:
    now = 100.0
    cache = ModelCache(max_models=2, budget=MemoryBudget(100), clock=lambda: now)
    models = Models(cache, size=7)
    models.use("a")
    now = 103.0
    with models.lease("a"):
        used = {"key": "a", "memory": ANY, "bytes": 7, "device": "cpu", "age_s": 3.0, "hits": 1}
        assert cache.entries() == [{**used, "idle_s": 0.0, "leases": 1}]
    now = 105.0
    assert cache.entries() == [{**used, "age_s": 5.0, "idle_s": 2.0, "leases": 0}]


def test_many_threads_over_few_places_never_run_an_unloaded_model() -> None:
    models = Models(ModelCache(max_models=2, budget=MemoryBudget(100)))

    def work(seed: int) -> None:
        for step in range(60):
            with models.lease("abcde"[(seed * 7 + step * (seed + 1)) % 5]) as model, model.running:
                assert not model.unloaded

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))

    assert len(models.cache.entries()) <= 2
    assert sum(models.loads.values()) == models.cache.misses
    assert models.cache.hits + models.cache.misses == 8 * 60
    left = {entry["key"] for entry in models.cache.entries()}
    for key in "abcde":
        assert models.loads[key] - models.unloads[key] == (key in left)
