"""Models that leave the cache: slowly, by request, once replaced, or for want of use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.cache.cached_model import Loaded
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import MakeRoom, ModelCache
from tests.unit.engines.cached_models import DEADLINE_S, Model, Models, keys, wait_until


@pytest.fixture
def models() -> Models:
    return Models(ModelCache(max_models=2, budget=MemoryBudget(100)))


def test_a_slow_unload_does_not_block_another_model() -> None:
    cache = ModelCache(max_models=1, budget=MemoryBudget(100))
    unloading, go_on = threading.Event(), threading.Event()

    def slow_unload(model: object) -> None:
        unloading.set()
        assert go_on.wait(DEADLINE_S)

    with cache.lease("old", lambda make_room: Loaded("old", 1), slow_unload):
        pass
    with ThreadPoolExecutor(1) as threads:
        cleared = threads.submit(cache.clear)
        assert unloading.wait(DEADLINE_S)
        with cache.lease("new", lambda make_room: Loaded("new", 1), lambda model: None) as model:
            assert model == "new"
        go_on.set()
        assert cleared.result(DEADLINE_S) == 1


def test_a_model_that_is_being_unloaded_is_loaded_anew_only_when_it_is_gone() -> None:
    cache = ModelCache(max_models=1, budget=MemoryBudget(100))
    order: list[str] = []
    unloading, asked, go_on = threading.Event(), threading.Event(), threading.Event()

    def slow_unload(model: object) -> None:
        unloading.set()
        assert go_on.wait(DEADLINE_S)
        order.append("unloaded")

    def load(make_room: MakeRoom) -> Loaded:
        order.append("loaded")
        return Loaded("model", 1)

    def ask_again() -> None:
        asked.set()
        with cache.lease("a", load, lambda model: None):
            pass

    with cache.lease("a", load, slow_unload):
        pass
    with ThreadPoolExecutor(2) as threads:
        cleared = threads.submit(cache.clear)
        assert unloading.wait(DEADLINE_S)
        again = threads.submit(ask_again)
        assert asked.wait(DEADLINE_S)
        assert cache.bytes == 1  # what is on its way out still holds its memory
        go_on.set()
        cleared.result(DEADLINE_S)
        again.result(DEADLINE_S)

    assert order == ["loaded", "unloaded", "loaded"]


def test_clear_leaves_the_leased_models_and_counts_the_others(models: Models) -> None:
    models.use("idle")
    with models.lease("busy") as busy:
        assert models.cache.clear() == 1
        assert not busy.unloaded
        assert keys(models.cache) == ["busy"]
        assert models.cache.entries()[0]["leases"] == 1
    assert models.cache.clear() == 1
    assert busy.unloaded


@pytest.mark.logs_errors("unload_failed")
def test_an_unload_that_fails_is_not_the_trouble_of_whoever_caused_it() -> None:
    cache = ModelCache(max_models=1, budget=MemoryBudget(100))

    def broken(model: object) -> None:
        raise RuntimeError("device lost")

    with cache.lease("a", lambda make_room: Loaded("a", 1), broken):
        pass
    with cache.lease("b", lambda make_room: Loaded("b", 1), lambda model: None) as model:
        assert model == "b"
    assert keys(cache) == ["b"]


def test_a_release_where_no_thread_can_be_started_ends_the_use_and_the_next_unloads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = Models(ModelCache(max_models=1, budget=MemoryBudget(100)))
    leases = [
        models.cache.share(key, lambda make_room, key=key: Loaded(Model(key), 1), models.unload)  # type: ignore[misc]
        for key in ("a", "b", "c")
    ]

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        leases[0].release()
    assert keys(models.cache) == ["b", "c", "a"]
    leases[1].release()
    wait_until(lambda: keys(models.cache) == ["c"])
    assert models.unloads == {"a": 1, "b": 1}


def test_what_is_not_loaded_cannot_be_held(models: Models) -> None:
    assert models.cache.hold("a") is None
    while_loading: list[object] = []
    models.use("a", before=lambda: while_loading.append(models.cache.hold("a")))
    assert while_loading == [None]


def test_a_held_model_is_used_and_stays_but_counts_no_more(models: Models) -> None:
    models.use("a", size=100)
    hold = models.cache.hold("a")
    assert hold is not None
    models.use("b", size=50)
    models.use("c", size=50)
    assert models.use("a") is hold.model
    assert keys(models.cache) == ["b", "c", "a"]
    hold.release()
    wait_until(lambda: keys(models.cache) == ["a"])


def test_a_model_retires_past_its_holders_but_not_past_its_users(models: Models) -> None:
    models.use("a")
    hold = models.cache.hold("a")
    assert hold is not None
    with models.lease("a") as model:
        assert not models.cache.retire("a")
        assert not model.unloaded
    assert models.cache.retire("a")
    assert model.unloaded
    assert models.cache.retire("a"), "it is gone already"
    again = models.use("a")
    hold.release()
    assert not again.unloaded
    assert models.cache.entries()[0]["leases"] == 0


def test_only_what_was_not_used_for_long_is_idle() -> None:
    now = 0.0
    models = Models(ModelCache(9, MemoryBudget(100), clock=lambda: now))
    for key in ("old", "kept", "busy", "used"):
        models.use(key)
    now = 10.0
    models.use("used")
    with models.lease("busy"):
        assert models.cache.unload_idle(10.0, keep=lambda key: key == "kept") == 1
    assert models.unloads == {"old": 1}
    assert models.cache.unload_idle(10.0, keep=lambda key: False) == 1
    assert models.unloads == {"old": 1, "kept": 1}


def test_a_model_is_abandoned_once_and_not_the_one_that_took_its_place() -> None:
    """Several answers of a loop that hangs are given up, each for itself."""
    cache = ModelCache(max_models=2, budget=MemoryBudget(100))
    loads: list[str] = []

    def load(make_room: MakeRoom) -> Loaded:
        loads.append(f"load {len(loads) + 1}")
        return Loaded(loads[-1], 1)

    hung = cache.share("a", load, lambda model: None)
    cache.abandon("a", hung.model)
    with cache.share("a", load, lambda model: None) as model:
        cache.abandon("a", hung.model)
        assert model == "load 2"
    with cache.share("a", load, lambda model: None) as model:
        assert model == "load 2"
    hung.release()
