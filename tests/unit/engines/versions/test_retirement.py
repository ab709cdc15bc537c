"""Versions on their way out: they stay for those who were promised an answer by them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from engines.versions.retirement import STRAGGLERS_S
from tests.unit.engines.cached_models import DEADLINE_S, wait_until
from tests.unit.engines.version_stage import Stage


def test_a_request_resolved_before_the_swap_is_answered_by_the_old_version_still_in_memory(
    stage: Stage,
) -> None:
    stage.use()
    under_way = stage.versions.resolve("m")
    stage.swap_to("2")
    stage.versions.tend()
    assert stage.in_memory == {"t/m/1", "t/m/2"}
    assert stage.run(under_way) == "1"
    assert stage.loads["t:m/1"] == 1, "it was loaded again"
    del under_way
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_request_that_is_never_finished_keeps_the_old_version_for_a_while_only(stage: Stage) -> None:
    stage.use()
    forgotten = stage.versions.resolve("m")
    stage.swap_to("2")
    stage.settle()
    stage.now += STRAGGLERS_S
    wait_until(lambda: stage.in_memory == {"t/m/2"})
    assert stage.run(forgotten) == "1", "it can still be answered"
    del forgotten
    stage.versions.tend()
    assert stage.in_memory == {"t/m/2"}


def test_a_running_request_keeps_the_old_version_however_long_it_runs(stage: Stage) -> None:
    stage.use()
    lease = stage.load("e", "t", stage.versions.resolve("m").model)
    stage.swap_to("2")
    stage.now += 10 * STRAGGLERS_S
    stage.versions.tend()
    assert stage.in_memory == {"t/m/1", "t/m/2"}
    lease.release()
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_an_alias_that_comes_back_while_the_old_version_is_still_in_use_finds_it_in_memory(
    stage: Stage,
) -> None:
    stage.use()
    under_way = stage.versions.resolve("m")
    stage.swap_to("2")
    stage.swap_to("1")
    del under_way
    wait_until(lambda: stage.in_memory == {"t/m/1"})
    assert stage.loads["t:m/1"] == 1


def test_a_version_that_was_replaced_during_its_load_leaves_once_that_load_is_over(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/1")
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(stage.use)
        assert began.wait(DEADLINE_S)
        stage.models.versions["m"] = "2"
        wait_until(lambda: stage.use() == "2")
        stage.now += STRAGGLERS_S
        stage.versions.tend()
        go_on.set()
        assert slow.result(DEADLINE_S) == "1"
    del slow
    wait_until(lambda: stage.in_memory == {"t/m/2"})


def test_a_version_whose_request_is_gone_before_its_load_is_over_stays_for_the_next_one(stage: Stage) -> None:
    began, go_on = stage.hold_up("m/1")
    with ThreadPoolExecutor(1) as threads:
        request = stage.versions.resolve("m")
        loading = threads.submit(stage.load, "e", "t", request.model)
        assert began.wait(DEADLINE_S)
        del request
        stage.versions.tend()
        go_on.set()
        loading.result(DEADLINE_S).release()
    stage.versions.tend()
    assert stage.use() == "1"
    assert stage.loads["t:m/1"] == 1
