"""What a name stands for, step by step: answers of the registry, moves and failures."""

from __future__ import annotations

import pytest

from engines.models.resolved_model import ResolvedModel
from engines.versions.model_service import LONGEST_RETRY_S, RETRY_S, Service

USES = frozenset({("engine", "task")})


def version(number: int, **tags: str) -> ResolvedModel:
    return ResolvedModel("m", str(number), f"s3://b/{number}", tags)


@pytest.fixture
def service() -> Service:
    return Service("m", version(1), version(1), changed=1)


def test_an_answer_with_another_version_is_wanted_and_not_yet_in_service(service: Service) -> None:
    service.hear(version(2), asked_after=1, number=2)
    assert (service.current, service.wanted, service.changed) == (version(1), version(2), 2)
    assert not service.is_settled
    service.move()
    assert service.current == version(2)
    assert service.is_settled


def test_an_answer_that_was_overtaken_changes_nothing(service: Service) -> None:
    service.hear(version(2), asked_after=1, number=2)
    service.hear(version(1), asked_after=1, number=3)
    assert (service.wanted, service.changed) == (version(2), 2)


def test_the_same_version_with_other_tags_takes_its_place_in_silence(service: Service) -> None:
    service.hear(version(1, owner="somebody"), asked_after=0, number=2)
    assert service.current.tags == {"owner": "somebody"}
    assert service.changed == 1


def test_tries_are_further_and_further_apart_up_to_a_bound(service: Service) -> None:
    service.hear(version(2), asked_after=1, number=2)
    pauses = [service.fail(USES, now=100.0).retry_in_s for _ in range(8)]
    assert pauses == [min(RETRY_S * 2**count, LONGEST_RETRY_S) for count in range(8)]
    assert not service.may_try(100.0 + LONGEST_RETRY_S - 0.1)
    assert service.may_try(100.0 + LONGEST_RETRY_S)


def test_another_answer_ends_a_failure(service: Service) -> None:
    service.hear(version(2), asked_after=1, number=2)
    service.fail(USES, now=100.0)
    service.hear(version(3), asked_after=2, number=3)
    assert service.may_try(100.0)
    assert service.failure is None
