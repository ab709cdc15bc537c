"""Changes of the version in service: what is loaded when, which version a request gets, what leaves the memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engines.cached_model import Lease, Loaded
from engines.departures import STRAGGLERS_S
from engines.memory_budget import MemoryBudget
from engines.model_cache import MakeRoom, ModelCache
from engines.model_swap import LONGEST_RETRY_S, RETRY_S, InService, ModelSwaps
from engines.models import ModelManager
from engines.resolved_model import ResolvedModel
from engines.settings import CacheSettings, MlflowSettings
from handlers.errors import ModelLoadFailed, RegistryUnavailable, UnknownModel
from tests.unit.engines.cached_models import DEADLINE_S, wait_until

NEVER_S = 1e6


class Aliases(ModelManager):
    """A registry in which a test moves names from version to version."""

    def __init__(self, directory: Path) -> None:
        super().__init__(MlflowSettings(alias_poll_s=NEVER_S), CacheSettings(directory=directory))
        self.versions: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.is_away = False

    def resolve(self, model_name: str) -> ResolvedModel:
        if self.is_away:
            raise RegistryUnavailable("away")
        name, _, version = model_name.partition("/")
        if name not in self.versions:
            raise UnknownModel(name)
        key = f"{name}/{version or self.versions[name]}"
        return ResolvedModel(name, key.split("/")[1], f"s3://b/{key}", self.tags.get(key, {}))

    def renew(self, model_name: str) -> ResolvedModel:
        return self.resolve(model_name)


class Stage:
    """Swaps over a cache whose loads a test can hold up or let fail, with a clock of its own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.now = 0.0
        self.models = Aliases(directory)
        self.models.versions["m"] = "1"
        max_models, max_bytes = settings.pop("max_models", 4), settings.pop("max_bytes", 1000)
        self.cache = ModelCache(max_models, MemoryBudget(max_bytes), clock=lambda: self.now)
        self.before: dict[str, Callable[[], object]] = {}
        self.loads: Counter[str] = Counter()
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.swaps = ModelSwaps(
            models=self.models,
            cache=self.cache,
            load=self.load,
            on_model=lambda kind, model, details: self.told.append((kind, model.key, dict(details))),
            clock=lambda: self.now,
            **settings,
        )

    def load(self, engine: str, task: str, model: ResolvedModel) -> Lease:
        def load(make_room: MakeRoom) -> Loaded:
            self.before.get(model.key, lambda: None)()
            self.loads[f"{task}:{model.key}"] += 1
            return Loaded(model.key, 10)

        return self.cache.share(f"{engine}/{task}/{model.key}", load, lambda loaded: None)

    def use(self, name: str = "m", *, task: str = "t") -> str:
        """Resolve a name and run its model; return the version."""
        return self.run(self.swaps.resolve(name), task=task)

    def run(self, version: InService, *, task: str = "t") -> str:
        self.load("e", task, version.model).release()
        return version.model.version

    @property
    def in_memory(self) -> set[str]:
        return {entry["key"].removeprefix("e/") for entry in self.cache.entries()}

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(kind, key) for kind, key, _ in self.told]

    def hold_up(self, version: str) -> tuple[threading.Event, threading.Event]:
        """Make loads of a version wait; return what says that one began, and what lets it go on."""
        began, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            began.set()
            assert go_on.wait(DEADLINE_S)

        self.before[version] = wait
        return began, go_on

    def fail(self, version: str) -> None:
        def refuse() -> None:
            raise ModelLoadFailed("no weights")

        self.before[version] = refuse


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def stage(**settings: Any) -> Stage:
        made.append(Stage(tmp_path, **settings))
        return made[-1]

    yield stage
    for one in made:
        one.swaps.close()


@pytest.fixture
def stage(make: Callable[..., Stage]) -> Stage:
    return make()


def test_a_new_version_loads_beside_the_old_one_which_answers_until_it_is_there(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/2")
    assert stage.use() == "1"
    stage.models.versions["m"] = "2"
    assert stage.use() == "1"
    assert began.wait(DEADLINE_S)
    assert [stage.use() for _ in range(3)] == ["1"] * 3
    assert stage.loads == {"t:m/1": 1}
    go_on.set()
    wait_until(lambda: stage.use() == "2")
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    assert stage.loads == {"t:m/1": 1, "t:m/2": 1}


def test_a_swap_is_told_with_both_versions(stage: Stage) -> None:
    stage.use()
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2" and bool(stage.told))
    [(kind, key, details)] = stage.told
    assert (kind, key) == ("model_swapped", "m/2")
    assert details.pop("seconds") >= 0
    assert details == {"engine": "e", "task": "t", "name": "m", "previous_version": "1"}


def test_a_model_that_is_not_in_memory_moves_straight_away(stage: Stage) -> None:
    assert stage.swaps.resolve("m").model.version == "1"
    stage.models.versions["m"] = "2"
    assert stage.use() == "2"
    assert stage.loads == {"t:m/2": 1}
    assert stage.told == []


def test_an_explicit_version_never_moves(stage: Stage) -> None:
    stage.use("m")
    assert stage.use("m/1") == "1"
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use("m") == "2")
    assert stage.use("m/1") == "1"
    stage.swaps.tend()
    assert stage.in_memory == {"t/m/1", "t/m/2"}, "the name m/1 still stands for it"


def test_a_request_resolved_before_the_swap_is_answered_by_the_old_version_still_in_memory(
    stage: Stage,
) -> None:
    stage.use()
    under_way = stage.swaps.resolve("m")
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2")
    stage.swaps.tend()
    assert stage.in_memory == {"t/m/1", "t/m/2"}
    assert stage.run(under_way) == "1"
    assert stage.loads["t:m/1"] == 1, "it was loaded again"
    del under_way
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_request_that_is_never_finished_keeps_the_old_version_for_a_while_only(stage: Stage) -> None:
    stage.use()
    forgotten = stage.swaps.resolve("m")
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2")
    stage.now += STRAGGLERS_S
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    assert stage.run(forgotten) == "1", "it can still be answered"


def test_a_running_request_keeps_the_old_version_however_long_it_runs(stage: Stage) -> None:
    stage.use()
    lease = stage.load("e", "t", stage.swaps.resolve("m").model)
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2")
    stage.now += 10 * STRAGGLERS_S
    stage.swaps.tend()
    assert stage.in_memory == {"t/m/1", "t/m/2"}
    lease.release()
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_version_that_does_not_load_leaves_the_old_one_in_service_and_is_tried_again_less_and_less_often(
    stage: Stage,
) -> None:
    stage.fail("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    waits = [RETRY_S, 2 * RETRY_S, 4 * RETRY_S]
    for number, wait_s in enumerate(waits, start=1):
        assert stage.use() == "1"
        wait_until(lambda number=number: len(stage.told) == number)  # type: ignore[misc]
        kind, key, details = stage.told[-1]
        assert (kind, key) == ("model_swap_failed", "m/2")
        assert details == {
            "engine": "e",
            "task": "t",
            "name": "m",
            "current_version": "1",
            "error_code": "MODEL_LOAD_FAILED",
            "error": "no weights",
            "retry_in_s": wait_s,
        }
        settle(stage)
        stage.now += wait_s - 0.1
        assert stage.use() == "1"
        assert len(stage.told) == number, "it was tried too early"
        stage.now += 0.2
    del stage.before["m/2"]
    wait_until(lambda: stage.use() == "2")


def test_the_pause_between_tries_is_bounded(stage: Stage) -> None:
    stage.fail("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    for number in range(1, 11):
        stage.use()
        wait_until(lambda number=number: len(stage.told) == number)  # type: ignore[misc]
        settle(stage)
        stage.now += LONGEST_RETRY_S + 0.1
    assert stage.told[-1][2]["retry_in_s"] == LONGEST_RETRY_S


def test_after_a_failure_another_version_is_tried_at_once(stage: Stage) -> None:
    stage.fail("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    stage.use()
    wait_until(lambda: stage.kinds == [("model_swap_failed", "m/2")])
    settle(stage)
    stage.models.versions["m"] = "3"
    wait_until(lambda: stage.use() == "3")


def test_a_version_that_failed_is_tried_at_once_when_the_alias_comes_back_to_it(stage: Stage) -> None:
    stage.fail("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    stage.use()
    wait_until(lambda: stage.kinds == [("model_swap_failed", "m/2")])
    settle(stage)
    stage.models.versions["m"] = "1"
    assert stage.use() == "1"
    del stage.before["m/2"]
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2")


def test_the_old_version_survives_a_failure_even_when_its_room_was_needed_meanwhile(
    make: Callable[..., Stage],
) -> None:
    stage = make(max_models=1)
    stage.models.versions["other"] = "1"
    stage.fail("m/2")
    stage.use("m")
    stage.models.versions["m"] = "2"
    stage.use("m")
    wait_until(lambda: stage.kinds == [("model_swap_failed", "m/2")])
    settle(stage)
    stage.use("other")
    assert stage.in_memory == {"t/other/1"}
    stage.swaps.tend()
    stage.now += RETRY_S + 1
    assert stage.use("m") == "1"
    wait_until(lambda: len(stage.told) == 2)
    assert stage.use("m") == "1"


def test_an_error_that_is_a_bug_leaves_the_old_version_in_service(stage: Stage) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    stage.before["m/2"] = bug
    stage.use()
    stage.models.versions["m"] = "2"
    stage.use()
    wait_until(lambda: stage.kinds == [("model_swap_failed", "m/2")])
    assert stage.told[0][2]["error_code"] == "INTERNAL_ERROR"
    assert stage.use() == "1"


def test_an_alias_taken_back_during_the_load_leaves_the_old_version_and_frees_the_new_one(
    stage: Stage,
) -> None:
    began, go_on = stage.hold_up("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    stage.use()
    assert began.wait(DEADLINE_S)
    stage.models.versions["m"] = "1"
    go_on.set()
    wait_until(lambda: stage.loads["t:m/2"] == 1 and stage.in_memory == {"t/m/1"})
    assert stage.use() == "1"
    assert stage.told == []


def test_an_alias_that_moves_on_during_the_load_ends_at_the_last_version(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    stage.use()
    assert began.wait(DEADLINE_S)
    stage.models.versions["m"] = "3"
    go_on.set()
    seen = ["1"]

    def is_there() -> bool:
        seen.append(stage.use())
        return seen[-1] == "3"

    wait_until(is_there)
    assert set(seen) == {"1", "3"}
    wait_until(lambda: stage.in_memory == {"t/m/3"})
    assert stage.kinds == [("model_swapped", "m/3")]


def test_an_alias_that_comes_back_while_the_old_version_is_still_in_use_finds_it_in_memory(
    stage: Stage,
) -> None:
    stage.use()
    under_way = stage.swaps.resolve("m")
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2")
    stage.models.versions["m"] = "1"
    wait_until(lambda: stage.use() == "1")
    del under_way
    wait_until(lambda: stage.in_memory == {"t/m/1"})
    assert stage.loads["t:m/1"] == 1


def test_an_answer_overtaken_by_a_newer_one_does_not_turn_the_name_back(stage: Stage) -> None:
    stage.use()
    asked, go_on = threading.Event(), threading.Event()
    resolve = stage.models.resolve

    def slowly(model_name: str) -> ResolvedModel:
        answer = resolve(model_name)
        asked.set()
        assert go_on.wait(DEADLINE_S)
        return answer

    stage.models.resolve = slowly  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        overtaken = threads.submit(stage.swaps.resolve, "m")
        assert asked.wait(DEADLINE_S)
        stage.models.resolve = resolve  # type: ignore[method-assign]
        stage.models.versions["m"] = "2"
        wait_until(lambda: stage.use() == "2")
        go_on.set()
        assert overtaken.result(DEADLINE_S).model.version == "2"
    settle(stage)
    assert stage.kinds == [("model_swapped", "m/2")]


def test_the_new_version_is_loaded_for_every_task_of_the_old_one(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/2")
    stage.use(task="t")
    stage.models.versions["m"] = "2"
    stage.use(task="t")
    assert began.wait(DEADLINE_S)
    stage.use(task="late")  # the old version, for a task that it was not loaded for when the swap began
    go_on.set()
    wait_until(lambda: stage.use() == "2")
    assert stage.loads["late:m/2"] == 1
    wait_until(lambda: stage.in_memory == {"t/m/2", "late/m/2"})


def test_tasks_that_the_new_version_is_not_for_are_not_loaded(stage: Stage) -> None:
    stage.use(task="t")
    stage.use(task="dropped")
    stage.models.tags["m/2"] = {"task": "t"}
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.use() == "2")
    assert stage.loads["dropped:m/2"] == 0
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_version_for_another_engine_takes_over_straight_away(stage: Stage) -> None:
    stage.use()
    stage.models.tags["m/2"] = {"engine": "another"}
    stage.models.versions["m"] = "2"
    assert stage.swaps.resolve("m").model.version == "2"
    wait_until(lambda: stage.in_memory == set())


def test_both_versions_fit_beside_each_other_and_beside_the_others_whatever_the_budget(
    make: Callable[..., Stage],
) -> None:
    stage = make(max_models=2, max_bytes=20)
    stage.models.versions["other"] = "1"
    stage.use("m")
    stage.use("other")
    began, go_on = stage.hold_up("m/2")
    stage.models.versions["m"] = "2"
    stage.use("m")
    assert began.wait(DEADLINE_S)
    assert [stage.use("m"), stage.use("other")] == ["1", "1"]
    go_on.set()
    wait_until(lambda: stage.use("m") == "2")
    wait_until(lambda: stage.in_memory == {"t/m/2", "t/other/1"})
    assert stage.loads == {"t:m/1": 1, "t:m/2": 1, "t:other/1": 1}


def test_a_change_is_followed_without_requests(stage: Stage) -> None:
    stage.use()
    stage.models.versions["m"] = "2"
    stage.swaps.tend()
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    assert stage.kinds == [("model_swapped", "m/2")]


def test_changes_are_followed_by_a_thread_of_its_own(stage: Stage) -> None:
    stage.models._settings = MlflowSettings(alias_poll_s=0.02)
    stage.use()
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_registry_that_is_away_changes_nothing(stage: Stage) -> None:
    stage.use()
    stage.models.is_away = True
    stage.swaps.tend()
    with pytest.raises(RegistryUnavailable):
        stage.use()
    stage.models.is_away = False
    assert stage.use() == "1"
    assert stage.loads == {"t:m/1": 1}


def test_names_that_nobody_uses_any_more_are_forgotten(stage: Stage) -> None:
    stage.use()
    stage.cache.clear()
    stage.swaps.tend()
    assert stage.swaps._services == {}


def test_a_model_without_requests_leaves_the_memory_unless_it_was_warmed(
    make: Callable[..., Stage],
) -> None:
    stage = make(idle_unload_s=100.0)
    stage.models.versions["warm"] = "1"
    stage.use("m")
    stage.run(stage.swaps.resolve("warm", is_warm=True))
    stage.now = 99.0
    stage.swaps.tend()
    assert stage.in_memory == {"t/m/1", "t/warm/1"}
    stage.now = 100.0
    stage.swaps.tend()
    assert stage.in_memory == {"t/warm/1"}


def test_a_use_puts_the_idle_unload_off(make: Callable[..., Stage]) -> None:
    stage = make(idle_unload_s=100.0)
    stage.use()
    stage.now = 60.0
    stage.use()
    stage.now = 150.0
    stage.swaps.tend()
    assert stage.in_memory == {"t/m/1"}


def test_a_warmed_model_follows_its_alias_and_stays_warm(make: Callable[..., Stage]) -> None:
    stage = make(idle_unload_s=100.0)
    stage.run(stage.swaps.resolve("m", is_warm=True))
    stage.models.versions["m"] = "2"
    stage.swaps.tend()
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    stage.now = 1000.0
    stage.swaps.tend()
    assert stage.in_memory == {"t/m/2"}


def test_closing_waits_for_a_load_and_leaves_nothing_held(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    stage.use()
    assert began.wait(DEADLINE_S)
    closing = threading.Thread(target=stage.swaps.close)
    closing.start()
    go_on.set()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    stage.cache.clear()
    assert stage.in_memory == set()
    assert stage.told == []


def settle(stage: Stage) -> None:
    """Return once no version is being loaded."""
    wait_until(lambda: not stage.swaps._moving)
