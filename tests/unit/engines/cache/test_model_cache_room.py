"""Which models leave the cache for others, and when: by count, by bytes on each device, out of memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.cache.cached_model import Loaded
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from handlers.errors import ModelLoadFailed, OutOfMemory
from tests.unit.engines.cached_models import DEADLINE_S, Models, keys


@pytest.fixture
def models() -> Models:
    return Models(ModelCache(max_models=2, budget=MemoryBudget(100)))


def test_the_least_recently_used_model_goes_first(models: Models) -> None:
    first = models.use("a")
    models.use("b")
    models.use("a")
    models.use("c")
    assert keys(models.cache) == ["a", "c"]
    assert models.unloads == {"b": 1}
    assert not first.unloaded


def test_room_is_made_before_a_load_needs_it(models: Models) -> None:
    models.use("a")
    models.use("b")
    models.use("c", before=lambda: models.unloads.update({"seen": models.unloads["a"]}))
    assert models.unloads["seen"] == 1


def test_models_are_evicted_until_their_bytes_fit(models: Models) -> None:
    models.use("a", size=60)
    models.use("b", size=60)
    assert keys(models.cache) == ["b"]
    assert models.cache.bytes == 60


def test_room_is_made_for_the_bytes_of_a_model_before_its_load_needs_them(models: Models) -> None:
    models.use("a", size=60)
    seen: list[tuple[list[str], int]] = []
    models.use("b", size=60, expected=50, before=lambda: seen.append((keys(models.cache), models.cache.bytes)))
    assert seen == [([], 50)]
    assert models.cache.bytes == 60


def test_models_that_load_at_the_same_time_count_with_what_they_will_take(models: Models) -> None:
    models.use("a", size=60)
    with models.lease("b", size=30, expected=30, before=lambda: models.use("c", size=30, expected=30)):
        assert sorted(keys(models.cache)) == ["b", "c"]


def test_a_model_that_is_known_to_exceed_the_budget_is_refused_before_anything_is_unloaded_for_it(
    models: Models,
) -> None:
    models.use("a")
    with pytest.raises(ModelLoadFailed, match=r"model huge takes 101 bytes of RAM; cache\.max_bytes allows 100"):
        models.use("huge", expected=101, before=lambda: pytest.fail("it was loaded"))
    assert keys(models.cache) == ["a"]


def test_a_model_that_proves_to_exceed_the_budget_is_unloaded_and_refused(models: Models) -> None:
    models.use("a", size=10)
    with pytest.raises(ModelLoadFailed, match=r"raise cache\.max_bytes"):
        models.use("huge", size=101)
    assert models.unloads == {"huge": 1}
    assert keys(models.cache) == ["a"]
    assert models.cache.bytes == 10
    assert models.use("huge", size=90).key == "huge", "the next load is a new one"


def test_a_model_as_large_as_the_budget_stays(models: Models) -> None:
    models.use("large", size=100)
    models.use("large")
    assert models.loads["large"] == 1


def test_a_leased_model_is_never_unloaded_and_the_excess_goes_when_leases_end() -> None:
    models = Models(ModelCache(max_models=1, budget=MemoryBudget(100)))
    with models.lease("a") as a, models.lease("b") as b, models.lease("c") as c:
        assert len(models.cache.entries()) == 3
        assert [a.unloaded, b.unloaded, c.unloaded] == [False] * 3
    assert len(models.cache.entries()) == 1
    assert sum(models.unloads.values()) == 2


def test_each_gpu_has_a_budget_of_its_own() -> None:
    models = Models(ModelCache(9, MemoryBudget(100, 50)))
    models.use("ram", size=90)
    models.use("first", size=40, device="cuda:0")
    models.use("second", size=40, device="cuda:1")
    assert keys(models.cache) == ["ram", "first", "second"]
    models.use("too much for the first", size=20, device="cuda:0")
    assert keys(models.cache) == ["ram", "second", "too much for the first"]
    models.use("too much for the ram", size=20, device="mps")
    assert keys(models.cache) == ["second", "too much for the first", "too much for the ram"]


def test_a_load_without_memory_is_tried_again_once_the_idle_models_are_gone() -> None:
    models = Models(ModelCache(9, MemoryBudget(100)))
    idle = models.use("idle")

    def while_it_is_there() -> None:
        if not idle.unloaded:
            raise OutOfMemory("full")

    with models.lease("busy") as busy:
        assert models.use("big", before=while_it_is_there).key == "big"
        assert not busy.unloaded
    assert models.loads["big"] == 2
    assert sorted(keys(models.cache)) == ["big", "busy"]


@pytest.mark.parametrize(
    ("expected", "unloaded"),
    [
        pytest.param(1, {"on the second"}, id="place known"),
        pytest.param(None, {"in RAM", "on the first", "on the second"}, id="place unknown"),
    ],
)
def test_only_models_that_can_make_room_leave_for_a_load_without_memory(
    expected: int | None, unloaded: set[str]
) -> None:
    models = Models(ModelCache(9, MemoryBudget(100, 100)))
    models.use("in RAM")
    models.use("on the first", device="cuda:0")
    models.use("on the second", device="cuda:1")
    models.use("at a server of its own", size=0)

    def the_first_time() -> None:
        if models.loads["big"] == 1:
            raise OutOfMemory("full")

    models.use("big", device="cuda:1", expected=expected, before=the_first_time)
    assert set(models.unloads) == unloaded


def test_models_of_another_place_are_no_reason_to_try_again() -> None:
    models = Models(ModelCache(9, MemoryBudget(100, 100)))

    def never() -> None:
        raise OutOfMemory("full")

    models.use("on a GPU", device="cuda:0")
    models.use("at a server of its own", size=0)
    with pytest.raises(OutOfMemory):
        models.use("big", expected=1, before=never)
    assert models.loads["big"] == 1
    assert not models.unloads


def test_a_load_without_memory_fails_where_no_model_is_idle(models: Models) -> None:
    def never() -> None:
        raise OutOfMemory("full")

    with models.lease("busy"), pytest.raises(OutOfMemory):
        models.use("big", before=never)
    assert models.loads["big"] == 1
    with pytest.raises(OutOfMemory):
        models.use("big", before=never)
    assert models.loads["big"] == 3, "once more without the model that was busy before"


def test_loads_that_take_no_memory_yet_make_no_model_leave() -> None:
    models = Models(ModelCache(max_models=4, budget=MemoryBudget(100)))
    warm = models.use("warm", size=10)
    waiting, go_on = threading.Barrier(7), threading.Event()

    def hang() -> None:
        waiting.wait(DEADLINE_S)
        assert go_on.wait(DEADLINE_S)
        raise ModelLoadFailed("the pull came to nothing")

    with ThreadPoolExecutor(6) as threads:
        hanging = [threads.submit(models.use, f"pulled {n}", meanwhile=hang) for n in range(6)]
        waiting.wait(DEADLINE_S)
        with models.lease("in use", size=10):
            assert sorted(keys(models.cache)) == ["in use", "warm"]
        go_on.set()
        assert [type(one.exception(DEADLINE_S)) for one in hanging] == [ModelLoadFailed] * 6
    assert not warm.unloaded
    assert not models.unloads


def test_a_model_at_a_server_of_its_own_counts_once_it_is_there(models: Models) -> None:
    models.use("a")
    models.use("b")
    seen: list[list[str]] = []
    models.use("pulled", size=0, is_here=False, before=lambda: seen.append(keys(models.cache)))
    assert seen == [["a", "b"]]
    assert keys(models.cache) == ["b", "pulled"]


def test_a_load_waits_for_the_memory_that_models_on_their_way_out_still_hold() -> None:
    models = Models(ModelCache(9, MemoryBudget(100, 50)))
    leaving, go_on, order = threading.Event(), threading.Event(), list[str]()

    def slow_unload(model: object) -> None:
        leaving.set()
        assert go_on.wait(DEADLINE_S)
        order.append("unloaded")

    with models.cache.lease("old", lambda make_room: Loaded("old", 60), slow_unload):
        pass
    with ThreadPoolExecutor(2) as threads:
        cleared = threads.submit(models.cache.clear)
        assert leaving.wait(DEADLINE_S)
        asked = threading.Event()
        new = threads.submit(
            models.use,
            "new",
            size=60,
            expected=60,
            meanwhile=asked.set,
            before=lambda: order.append("loaded"),
        )
        assert asked.wait(DEADLINE_S)
        assert models.use("elsewhere", size=40, device="cuda:0", expected=40).key == "elsewhere"
        go_on.set()
        assert new.result(DEADLINE_S).key == "new"
        assert cleared.result(DEADLINE_S) == 1
    assert order == ["unloaded", "loaded"]


def test_a_load_without_memory_is_tried_again_once_models_on_their_way_out_are_gone(models: Models) -> None:
    leaving, go_on, tried = threading.Event(), threading.Event(), threading.Event()

    def slow_unload(model: object) -> None:
        leaving.set()
        assert go_on.wait(DEADLINE_S)

    def while_it_leaves() -> None:
        if not go_on.is_set():
            tried.set()
            raise OutOfMemory("full")

    with models.cache.lease("old", lambda make_room: Loaded("old", 60), slow_unload):
        pass
    with ThreadPoolExecutor(2) as threads:
        cleared = threads.submit(models.cache.clear)
        assert leaving.wait(DEADLINE_S)
        new = threads.submit(models.use, "new", expected=1, before=while_it_leaves)
        assert tried.wait(DEADLINE_S)
        go_on.set()
        assert new.result(DEADLINE_S).key == "new"
        assert cleared.result(DEADLINE_S) == 1
    assert models.loads["new"] == 2


def test_raising_the_bound_unloads_nothing() -> None:
    models = Models(ModelCache(max_models=2, budget=MemoryBudget(100)))
    for key in "ab":
        models.use(key)
    models.cache.max_models = 3
    models.use("c")
    models.cache.max_models = None
    models.use("d")
    assert keys(models.cache) == ["a", "b", "c", "d"]
    assert not models.unloads


def test_what_finds_its_memory_in_use_by_another_is_a_hit() -> None:
    cache = ModelCache(None, MemoryBudget(100))
    for key in ("a", "b"):
        with cache.lease(key, lambda make_room: Loaded("model", 10, shared="weights"), lambda model: None):
            pass
    assert (cache.misses, cache.hits, cache.bytes) == (1, 1, 10)
    assert cache.clear() == 1
