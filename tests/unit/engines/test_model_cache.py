"""The model cache, under real threads held at known points by events and barriers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from engines.cached_model import Loaded
from engines.memory_budget import MemoryBudget
from engines.model_cache import MakeRoom, ModelCache
from handlers.errors import EngineUnavailable, ModelLoadFailed, OutOfMemory

DEADLINE_S = 20.0


@dataclass
class Model:
    """A model that knows whether it was unloaded, and whether somebody runs it."""

    key: str
    unloaded: bool = False
    running: threading.Lock = field(default_factory=threading.Lock)


class Models:
    """Loads and unloads models for a cache, and counts both."""

    def __init__(self, cache: ModelCache, *, size: int = 1) -> None:
        self.cache = cache
        self.size = size
        self.loads: Counter[str] = Counter()
        self.unloads: Counter[str] = Counter()

    def lease(
        self,
        key: str,
        *,
        before: Callable[[], object] | None = None,
        size: int | None = None,
        device: str = "cpu",
        expected: int | None = None,
    ) -> Any:
        def load(make_room: MakeRoom) -> Loaded:
            self.loads[key] += 1
            if expected is not None:
                make_room(expected, device)
            if before is not None:
                before()
            return Loaded(Model(key), self.size if size is None else size, device)

        return self.cache.lease(key, load, self.unload)

    def use(self, key: str, **how: Any) -> Model:
        with self.lease(key, **how) as model:
            assert isinstance(model, Model)
            assert not model.unloaded
            return model

    def unload(self, model: Model) -> None:
        assert not model.running.locked(), "unloaded while in use"
        model.unloaded = True
        self.unloads[model.key] += 1


@pytest.fixture
def models() -> Models:
    return Models(ModelCache(max_models=2, budget=MemoryBudget(100)))


def keys(cache: ModelCache) -> list[str]:
    return [entry["key"] for entry in cache.entries()]


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
    models.use(
        "b", size=60, expected=50, before=lambda: seen.append((keys(models.cache), models.cache.bytes))
    )
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
    with pytest.raises(
        ModelLoadFailed, match=r"model huge takes 101 bytes of RAM; cache\.max_bytes allows 100"
    ):
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


def test_clear_leaves_the_leased_models_and_counts_the_others(models: Models) -> None:
    models.use("idle")
    with models.lease("busy") as busy:
        assert models.cache.clear() == 1
        assert not busy.unloaded
        assert keys(models.cache) == ["busy"]
        assert models.cache.entries()[0]["leases"] == 1
    assert models.cache.clear() == 1
    assert busy.unloaded


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


def test_an_unload_that_fails_is_not_the_trouble_of_whoever_caused_it() -> None:
    cache = ModelCache(max_models=1, budget=MemoryBudget(100))

    def broken(model: object) -> None:
        raise RuntimeError("device lost")

    with cache.lease("a", lambda make_room: Loaded("a", 1), broken):
        pass
    with cache.lease("b", lambda make_room: Loaded("b", 1), lambda model: None) as model:
        assert model == "b"
    assert keys(cache) == ["b"]


def test_entries_say_size_age_hits_and_leases() -> None:
    now = 100.0
    cache = ModelCache(max_models=2, budget=MemoryBudget(100), clock=lambda: now)
    models = Models(cache, size=7)
    models.use("a")
    now = 103.0
    with models.lease("a"):
        used = {"key": "a", "bytes": 7, "device": "cpu", "age_s": 3.0, "hits": 1}
        assert cache.entries() == [{**used, "idle_s": 0.0, "leases": 1}]
    now = 105.0
    assert cache.entries() == [{**used, "age_s": 5.0, "idle_s": 2.0, "leases": 0}]


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


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; fail past the deadline."""
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("the condition never came true")
