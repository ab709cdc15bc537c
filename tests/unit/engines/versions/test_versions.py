"""Which version a request gets, how changes are followed, and which models stay in memory without requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from engines.config.settings import MlflowSettings
from engines.models.resolved_model import ResolvedModel
from handlers.errors import RegistryUnavailable, UnknownModel
from tests.unit.engines.cached_models import DEADLINE_S, wait_until
from tests.unit.engines.version_stage import Stage


def test_a_model_that_is_not_in_memory_moves_straight_away(stage: Stage) -> None:
    assert stage.versions.resolve("m").model.version == "1"
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
    stage.versions.tend()
    assert stage.in_memory == {"t/m/1", "t/m/2"}, "the name m/1 still stands for it"


def test_a_model_deleted_and_registered_anew_answers_with_its_new_files_though_its_version_is_1_again(
    stage: Stage,
) -> None:
    stage.models.sources["m/1"] = "s3://b/before"
    assert stage.source() == "s3://b/before"
    stage.models.sources["m/1"] = "s3://b/anew"
    wait_until(lambda: stage.source() == "s3://b/anew")
    wait_until(lambda: len(stage.in_memory) == 1)
    assert stage.loads == {"t:m/1": 2}
    wait_until(lambda: stage.kinds == [("model_swapped", "m/1")])


@pytest.mark.parametrize("finds_out", ["a request", "the look-up"])
def test_a_deleted_model_that_is_registered_again_answers_with_its_new_version_only(
    stage: Stage, finds_out: str
) -> None:
    assert stage.use() == "1"
    del stage.models.versions["m"]
    if finds_out == "the look-up":
        stage.versions.tend()
    else:
        with pytest.raises(UnknownModel):
            stage.use()
    wait_until(lambda: not stage.in_memory)
    stage.models.versions["m"] = "2"
    assert stage.use() == "2"
    assert stage.told == []


def test_a_warm_model_that_is_deleted_and_registered_again_stays_warm(stage: Stage) -> None:
    stage.run(stage.versions.resolve("m", is_warm=True))
    del stage.models.versions["m"]
    stage.versions.tend()
    stage.models.versions["m"] = "2"
    assert stage.use() == "2"
    assert {version.version for version in stage.versions.warm_versions()} == {"2"}


def test_a_tag_that_says_which_files_a_version_has_makes_another_model_of_it(stage: Stage) -> None:
    stage.models.tags["m/1"] = {"revision": "a" * 40}
    stage.use()
    stage.models.tags["m/1"] = {"revision": "b" * 40}
    wait_until(lambda: stage.use() == "1" and stage.loads["t:m/1"] == 2)


def test_a_tag_that_only_describes_a_version_loads_nothing_anew(stage: Stage) -> None:
    stage.use()
    stage.models.tags["m/1"] = {"owner": "somebody"}
    assert stage.versions.resolve("m").model.tags == {"owner": "somebody"}
    stage.versions.tend()
    stage.settle()
    assert stage.loads == {"t:m/1": 1}


def test_a_name_that_was_deleted_is_unknown_and_those_under_way_are_answered(stage: Stage) -> None:
    stage.use()
    under_way = stage.versions.resolve("m")
    del stage.models.versions["m"]
    with pytest.raises(UnknownModel):
        stage.versions.resolve("m")
    stage.versions.tend()
    assert stage.run(under_way) == "1"
    assert stage.loads == {"t:m/1": 1}


def test_a_deleted_version_gives_way_to_the_one_that_the_name_stands_for_now(stage: Stage) -> None:
    stage.models.versions["m"] = "2"
    stage.use()
    stage.models.versions["m"] = "1"  # version 2, and the alias that stood for it, are gone
    wait_until(lambda: stage.use() == "1")
    wait_until(lambda: stage.in_memory == {"t/m/1"})


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
        overtaken = threads.submit(stage.versions.resolve, "m")
        assert asked.wait(DEADLINE_S)
        stage.models.resolve = resolve  # type: ignore[method-assign]
        stage.models.versions["m"] = "2"
        wait_until(lambda: stage.use() == "2")
        go_on.set()
        assert overtaken.result(DEADLINE_S).model.version == "2"
    stage.settle()
    assert stage.kinds == [("model_swapped", "m/2")]


def test_a_version_for_another_engine_takes_over_straight_away(stage: Stage) -> None:
    stage.use()
    stage.models.tags["m/2"] = {"engine": "another"}
    stage.models.versions["m"] = "2"
    assert stage.versions.resolve("m").model.version == "2"
    wait_until(lambda: stage.in_memory == set())


def test_a_change_is_followed_without_requests(stage: Stage) -> None:
    stage.use()
    stage.models.versions["m"] = "2"
    stage.versions.tend()  # which may unload the old version before the swap is told
    wait_until(lambda: stage.in_memory == {"t/m/2"} and stage.kinds == [("model_swapped", "m/2")])


def test_changes_are_followed_by_a_thread_of_its_own(stage: Stage) -> None:
    stage.models._settings = MlflowSettings(alias_poll_s=0.02)
    stage.use()
    stage.models.versions["m"] = "2"
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_registry_that_is_away_changes_nothing(stage: Stage) -> None:
    stage.use()
    stage.models.is_away = True
    stage.versions.tend()
    with pytest.raises(RegistryUnavailable):
        stage.use()
    stage.models.is_away = False
    assert stage.use() == "1"
    assert stage.loads == {"t:m/1": 1}


def test_names_that_nobody_uses_any_more_are_forgotten(stage: Stage) -> None:
    stage.use()
    stage.cache.clear()
    stage.versions.tend()
    assert stage.versions._names == {}


def test_a_model_without_requests_leaves_the_memory_unless_it_was_warmed(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(idle_unload_s=100.0)
    stage.models.versions["warm"] = "1"
    stage.use("m")
    stage.run(stage.versions.resolve("warm", is_warm=True))
    stage.now = 99.0
    stage.versions.tend()
    assert stage.in_memory == {"t/m/1", "t/warm/1"}
    stage.now = 100.0
    stage.versions.tend()
    assert stage.in_memory == {"t/warm/1"}


def test_a_use_puts_the_idle_unload_off(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(idle_unload_s=100.0)
    stage.use()
    stage.now = 60.0
    stage.use()
    stage.now = 150.0
    stage.versions.tend()
    assert stage.in_memory == {"t/m/1"}


def test_a_warmed_model_follows_its_alias_and_stays_warm(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(idle_unload_s=100.0)
    stage.run(stage.versions.resolve("m", is_warm=True))
    stage.models.versions["m"] = "2"
    stage.versions.tend()
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    stage.now = 1000.0
    stage.versions.tend()
    assert stage.in_memory == {"t/m/2"}
