"""New versions that do not load: the old one answers on, and when they are tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from engines.versions.active_version import LONGEST_RETRY_S, RETRY_S
from handlers.errors import ModelLoadFailed
from tests.unit.engines.cached_models import DEADLINE_S, wait_until
from tests.unit.engines.version_stage import Stage


@pytest.mark.logs_errors("model_swap_failed")
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
        stage.settle()
        stage.now += wait_s - 0.1
        assert stage.use() == "1"
        assert len(stage.told) == number, "it was tried too early"
        stage.now += 0.2
    del stage.before["m/2"]
    wait_until(lambda: stage.use() == "2")


@pytest.mark.logs_errors("model_swap_failed")
def test_the_pause_between_tries_is_bounded(stage: Stage) -> None:
    stage.fail("m/2")
    stage.use()
    stage.models.versions["m"] = "2"
    for number in range(1, 11):
        stage.use()
        wait_until(lambda number=number: len(stage.told) == number)  # type: ignore[misc]
        stage.settle()
        stage.now += LONGEST_RETRY_S + 0.1
    assert stage.told[-1][2]["retry_in_s"] == LONGEST_RETRY_S


@pytest.mark.logs_errors("model_swap_failed")
def test_after_a_failure_another_version_is_tried_at_once(stage: Stage) -> None:
    stage.flip_in_vain()
    stage.swap_to("3")


@pytest.mark.logs_errors("model_swap_failed")
def test_a_version_that_failed_is_tried_at_once_when_the_alias_comes_back_to_it(stage: Stage) -> None:
    stage.flip_in_vain()
    stage.models.versions["m"] = "1"
    assert stage.use() == "1"
    del stage.before["m/2"]
    stage.swap_to("2")


@pytest.mark.logs_errors("model_swap_failed")
def test_the_old_version_survives_a_failure_even_when_its_room_was_needed_meanwhile(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage(max_models=1)
    stage.models.versions["other"] = "1"
    stage.fail("m/2")
    stage.use("m")
    stage.flip("2")
    wait_until(lambda: stage.kinds == [("model_swap_failed", "m/2")])
    stage.settle()
    stage.use("other")
    assert stage.in_memory == {"t/other/1"}
    stage.versions.tend()
    stage.now += RETRY_S + 1
    assert stage.use("m") == "1"
    wait_until(lambda: len(stage.told) == 2)
    assert stage.use("m") == "1"


@pytest.mark.logs_errors("model_swap_failed", "model_swap_failed_unexpectedly")
def test_an_error_that_is_a_bug_leaves_the_old_version_in_service(stage: Stage) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    stage.before["m/2"] = bug
    stage.use()
    stage.flip("2")
    wait_until(lambda: stage.kinds == [("model_swap_failed", "m/2")])
    assert stage.told[0][2]["error_code"] == "INTERNAL_ERROR"
    assert stage.use() == "1"


@pytest.mark.logs_errors("model_swap_failed")
def test_a_version_that_did_not_load_and_is_registered_anew_is_tried_at_once(stage: Stage) -> None:
    stage.flip_in_vain()
    del stage.before["m/2"]
    stage.models.sources["m/2"] = "s3://b/repaired"
    wait_until(lambda: stage.use() == "2")


def test_a_failure_of_a_version_that_is_not_wanted_any_more_is_forgotten(stage: Stage) -> None:
    began, go_on = threading.Event(), threading.Event()

    def refuse() -> None:
        began.set()
        assert go_on.wait(DEADLINE_S)
        raise ModelLoadFailed("no weights")

    stage.before["m/2"] = refuse
    stage.use()
    stage.flip("2")
    assert began.wait(DEADLINE_S)
    stage.models.versions["m"] = "1"
    assert stage.use() == "1"
    go_on.set()
    stage.settle()
    assert stage.told == []
    stage.cache.clear()
    stage.versions.tend()
    assert stage.versions._names == {}, "the name is kept for its failure"
