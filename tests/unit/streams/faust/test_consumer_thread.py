"""What goes wrong in a rebalance ends the worker: aiokafka would log it and go on without a generation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from streams.faust.assigned_partitions import ConsumerClosing
from streams.faust.consumer_thread import RebalanceListener


class Thread:
    """Stands for the consumer's thread, of which each step raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.crashes: list[Exception] = []
        self.source = SimpleNamespace(close=lambda: None, begin=self.fail)
        self.app = SimpleNamespace(on_rebalance_start=lambda: None)

    async def fail(self, *_: Any) -> None:
        raise self.error

    on_partitions_revoked = fail

    async def crash(self, error: Exception) -> None:
        self.crashes.append(error)


@pytest.mark.parametrize("step", ["on_partitions_revoked", "on_partitions_assigned"])
async def test_whatever_a_step_of_a_rebalance_raises_ends_the_worker(step: str) -> None:
    thread: Any = Thread(KeyError("a mistake of ours"))
    await getattr(RebalanceListener(thread), step)([])
    assert thread.crashes == [thread.error]


async def test_a_stop_during_a_rebalance_is_no_fault() -> None:
    thread: Any = Thread(ConsumerClosing())
    await RebalanceListener(thread).on_partitions_assigned([])
    assert thread.crashes == []
