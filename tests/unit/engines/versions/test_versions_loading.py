"""New versions on their way in: what is loaded when, for what, and what is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from engines.models.resolved_model import ResolvedModel
from tests.unit.engines.cached_models import DEADLINE_S, wait_until
from tests.unit.engines.version_stage import Stage


def test_a_new_version_loads_beside_the_old_one_which_answers_until_it_is_there(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/2")
    assert stage.use() == "1"
    stage.flip("2")
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


def test_an_alias_taken_back_during_the_load_leaves_the_old_version_and_frees_the_new_one(
    stage: Stage,
) -> None:
    go_on = stage.flip_and_hold_up()
    stage.models.versions["m"] = "1"
    go_on.set()
    wait_until(lambda: stage.loads["t:m/2"] == 1 and stage.in_memory == {"t/m/1"})
    assert stage.use() == "1"
    assert stage.told == []


def test_an_alias_that_moves_on_during_the_load_ends_at_the_last_version(stage: Stage) -> None:
    go_on = stage.flip_and_hold_up()
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


def test_an_alias_flipped_back_and_forth_during_a_load_causes_one_load_and_ends_where_it_stands(
    stage: Stage,
) -> None:
    began, go_on = stage.hold_up("m/2")
    stage.use()
    for version in "21212":
        stage.models.versions["m"] = version
        assert stage.use() == "1"
    assert began.wait(DEADLINE_S)
    go_on.set()
    wait_until(lambda: stage.use() == "2")
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    assert stage.loads == {"t:m/1": 1, "t:m/2": 1}
    assert stage.kinds == [("model_swapped", "m/2")]


def test_a_registry_that_goes_away_during_the_load_does_not_keep_the_new_version_out(stage: Stage) -> None:
    go_on = stage.flip_and_hold_up()
    stage.models.is_away = True
    go_on.set()
    wait_until(lambda: stage.kinds == [("model_swapped", "m/2")])
    stage.models.is_away = False
    assert stage.use() == "2"


def test_the_new_version_is_loaded_for_every_task_of_the_old_one(stage: Stage) -> None:
    go_on = stage.flip_and_hold_up()
    stage.use(task="late")  # the old version, for a task that it was not loaded for when the swap began
    go_on.set()
    wait_until(lambda: stage.use() == "2")
    assert stage.loads["late:m/2"] == 1
    wait_until(lambda: stage.in_memory == {"t/m/2", "late/m/2"})


def test_tasks_that_the_new_version_is_not_for_are_not_loaded(stage: Stage) -> None:
    stage.use(task="t")
    stage.use(task="dropped")
    stage.models.tags["m/2"] = {"task": "t"}
    stage.swap_to("2")
    assert stage.loads["dropped:m/2"] == 0
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_both_versions_fit_beside_each_other_and_beside_the_others_whatever_the_budget(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(max_models=2, max_bytes=20)
    stage.models.versions["other"] = "1"
    stage.use("m")
    stage.use("other")
    began, go_on = stage.hold_up("m/2")
    stage.flip("2")
    assert began.wait(DEADLINE_S)
    assert [stage.use("m"), stage.use("other")] == ["1", "1"]
    go_on.set()
    wait_until(lambda: stage.use("m") == "2")
    wait_until(lambda: stage.in_memory == {"t/m/2", "t/other/1"})
    assert stage.loads == {"t:m/1": 1, "t:m/2": 1, "t:other/1": 1}


def test_closing_waits_for_a_load_and_leaves_nothing_held(stage: Stage) -> None:
    go_on = stage.flip_and_hold_up()
    closing = threading.Thread(target=stage.versions.close)
    closing.start()
    go_on.set()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    stage.cache.clear()
    assert stage.in_memory == set()
    assert stage.told == []


def test_a_change_right_after_a_swap_is_loaded_by_one_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage.use() == "1"
    began, go_on = stage.hold_up("m/3")
    tell = stage.versions._on_model
    assert tell is not None

    def move_on(kind: str, model: ResolvedModel, details: dict[str, Any]) -> None:
        tell(kind, model, details)
        if (kind, model.key) == ("model_swapped", "m/2"):
            stage.models.versions["m"] = "3"
            stage.use()

    monkeypatch.setattr(stage.versions, "_on_model", move_on)
    stage.swap_to("2")
    assert began.wait(DEADLINE_S)
    wait_until(lambda: len(stage.versions._loads) == 1)
    go_on.set()
    wait_until(lambda: not stage.versions._loads)
    assert stage.use() == "3"
    assert stage.kinds.count(("model_swapped", "m/3")) == 1
