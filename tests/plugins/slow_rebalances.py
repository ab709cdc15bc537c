"""Delays between any two steps of a rebalance: of the worker that imports it, from a seed.

`SLOW_REBALANCES` is the seed; a delay is none, short or long, by chance. What answers a fetch is late too, for that is
what a rebalance can overtake.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

from aiokafka.client import AIOKafkaClient
from faust.tables.recovery import Recovery
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

_STEPS = ("JoinGroupRequest", "SyncGroupRequest", "OffsetFetchRequest", "OffsetRequest", "FetchRequest")
_CHANCE = random.Random(os.environ.get("SLOW_REBALANCES", "0"))


async def _wait() -> None:
    await asyncio.sleep(_CHANCE.choice((0.0, 0.0, 0.01, 0.05, 0.3)))


def _slow(owner: type, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    async def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not when(*args):
            return await original(self, *args, **kwargs)
        await _wait()
        answer = await original(self, *args, **kwargs)
        await _wait()
        return answer

    setattr(owner, name, slow)


_slow(AIOKafkaClient, "send", lambda _node, request, *_: type(request).__name__ in _STEPS)
_slow(AIOKafkaConsumerThread, "on_partitions_revoked")
_slow(AIOKafkaConsumerThread, "on_partitions_assigned")
_slow(AIOKafkaConsumerThread, "seek_to_committed")
_slow(Consumer, "on_partitions_assigned")
_slow(Recovery, "_resume_streams")
