"""What a step of a rebalance raises ends the worker, and what a worker outside of its group says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.faust.faust_internals import RebalanceListener
from streams.faust.group_supervisor import Supervisor
from streams.faust.membership import Membership
from streams.kafka.aiokafka_internals import ConsumerClosing
from streams.settings import KafkaSettings


class Failing:
    """Stands for the consumer's thread, of which each step raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.crashes: list[Exception] = []
        self.reader = SimpleNamespace(close=lambda: None, begin=self.fail)
        self.app = SimpleNamespace(on_rebalance_start=lambda: None)
        self.membership = Membership(KafkaSettings(), [], on_fatal=lambda error: None)

    async def fail(self, *_: Any) -> None:
        raise self.error

    on_partitions_revoked = fail

    async def crash(self, error: Exception) -> None:
        self.crashes.append(error)


@pytest.mark.parametrize("step", ["on_partitions_revoked", "on_partitions_assigned"])
async def test_whatever_a_step_of_a_rebalance_raises_ends_the_worker(step: str) -> None:
    thread: Any = Failing(KeyError("a mistake of ours"))
    await getattr(RebalanceListener(thread), step)([])
    assert thread.crashes == [thread.error]


class Answering(Failing):
    """A worker that the group has put out, and that looks at what keeps it from it while it answers."""

    async def on_partitions_revoked(self, *_: Any) -> None:
        coordination = SimpleNamespace(
            client=None,
            coordinator=SimpleNamespace(coordinator_id=None),
            take_over=lambda **_: (None, None),
        )
        supervisor = Supervisor(cast(Any, coordination), self.membership)
        supervisor._say_at = 0.0
        await supervisor._look_at_group()


async def test_a_worker_that_answers_before_it_joins_again_says_so() -> None:
    thread: Any = Answering(KeyError())
    thread.membership.state = "searching"
    await RebalanceListener(thread).on_partitions_revoked([])
    assert thread.crashes == []
    assert "requests in work are answered" in thread.membership.reason
    assert not thread.membership.is_answering


async def test_a_stop_during_a_rebalance_is_no_fault() -> None:
    thread: Any = Failing(ConsumerClosing())
    await RebalanceListener(thread).on_partitions_assigned([])
    assert thread.crashes == []
