"""Versions on their way out: they stay for those who were promised an answer by them."""

from __future__ import annotations

from engines.departures import STRAGGLERS_S
from tests.unit.engines.cached_models import wait_until
from tests.unit.engines.swap_stage import Stage


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
