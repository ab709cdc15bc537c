"""What is asked of a coordinator that is not ready yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors

from streams.kafka import topic_admin
from streams.settings import KafkaSettings

MAY_READ, MAY_DESCRIBE_ALONE = 1 << 3, 1 << 8


class Coordinator:
    """Gives one answer after the other."""

    def __init__(self, *answers: tuple[int, int]) -> None:
        self.answers = list(answers)

    async def coordinator_lookup(self, kind: Any, group: str) -> int:
        if self.answers[0][0] == errors.GroupCoordinatorNotAvailableError.errno:
            self.answers.pop(0)
            raise errors.GroupCoordinatorNotAvailableError
        return 1

    async def send(self, node: int, request: Any) -> Any:
        code, allowed = self.answers.pop(0)
        group = {"error_code": code, "authorized_operations": allowed, "members": [{}, {}]}
        return SimpleNamespace(to_object=lambda: {"groups": [group]})


class NoCoordinator:
    """Brokers that never name a coordinator."""

    async def coordinator_lookup(self, kind: Any, group: str) -> int:
        raise errors.GroupCoordinatorNotAvailableError


async def test_a_group_whose_coordinator_nobody_names_in_time_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topic_admin, "_AGAIN_S", 0.01)
    monkeypatch.setattr(topic_admin, "_RIGHTS_TIMEOUT_S", 0.1)
    reason, is_told, _ = await topic_admin.group_rights(NoCoordinator(), KafkaSettings())
    assert is_told
    assert "the brokers have no coordinator for group 'inferstream'" in str(reason)


@pytest.mark.parametrize(("operations", "is_refused"), [(MAY_READ, False), (MAY_DESCRIBE_ALONE, True)])
async def test_a_coordinator_that_loads_or_moves_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, operations: int, is_refused: bool
) -> None:
    monkeypatch.setattr(topic_admin, "_AGAIN_S", 0)
    coordinator = Coordinator((15, 0), (14, 0), (16, 0), (0, operations))
    reason, is_told, members = await topic_admin.group_rights(coordinator, KafkaSettings())
    assert (is_told, bool(reason), members) == (True, is_refused, 2)
