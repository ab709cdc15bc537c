"""What a name stands for, step by step: answers of the registry, moves and failures."""

from __future__ import annotations

import pytest

from engines.models.resolved_model import ResolvedModel
from engines.versions.active_version import LONGEST_RETRY_S, RETRY_S, ActiveVersion, State

USES = frozenset({("engine", "task")})


def version(number: int, **tags: str) -> ResolvedModel:
    return ResolvedModel("m", str(number), f"s3://b/{number}", tags)


@pytest.fixture
def active() -> ActiveVersion:
    return ActiveVersion("m", version(1), version(1), change=1)


def test_an_answer_with_another_version_is_wanted_and_not_yet_active(active: ActiveVersion) -> None:
    active.observe(version(2), asked_after=1, number=2)
    assert (active.current, active.wanted, active.change) == (version(1), version(2), 2)
    assert active.state is State.OUTDATED
    active.activate()
    assert (active.current, active.state) == (version(2), State.SETTLED)


def test_an_answer_that_was_overtaken_changes_nothing(active: ActiveVersion) -> None:
    active.observe(version(2), asked_after=1, number=2)
    active.observe(version(1), asked_after=1, number=3)
    assert (active.wanted, active.change, active.state) == (version(2), 2, State.OUTDATED)


def test_the_same_version_with_other_tags_takes_its_place_in_silence(active: ActiveVersion) -> None:
    active.observe(version(1, owner="somebody"), asked_after=0, number=2)
    assert active.current.tags == {"owner": "somebody"}
    assert (active.change, active.state) == (1, State.SETTLED)


def test_a_load_goes_on_whatever_is_wanted_meanwhile_and_ends_at_what_is_wanted(
    active: ActiveVersion,
) -> None:
    active.observe(version(2), asked_after=1, number=2)
    seen = []
    for number, wanted in enumerate((3, 1), start=3):
        active.begin(0.0)
        active.observe(version(wanted), asked_after=number - 1, number=number)
        seen.append(active.state)
    assert seen == [State.LOADING, State.LOADING]
    assert not active.begin(0.0)
    assert active.state is State.SETTLED


def test_tries_are_further_and_further_apart_up_to_a_bound(active: ActiveVersion) -> None:
    active.observe(version(2), asked_after=1, number=2)
    pauses = []
    for _ in range(8):
        active.fail(USES, now=100.0)
        pauses.append(active.retry_in_s)
    assert pauses == [min(RETRY_S * 2**count, LONGEST_RETRY_S) for count in range(8)]
    assert not active.begin(100.0 + LONGEST_RETRY_S - 0.1)
    assert active.state is State.FAILED
    assert active.begin(100.0 + LONGEST_RETRY_S)


def test_another_answer_ends_a_failure(active: ActiveVersion) -> None:
    active.observe(version(2), asked_after=1, number=2)
    active.fail(USES, now=100.0)
    active.observe(version(3), asked_after=2, number=3)
    assert active.state is State.OUTDATED
    assert active.begin(100.0)
    active.fail(USES, now=100.0)
    assert active.retry_in_s == RETRY_S
