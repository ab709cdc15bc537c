"""Delays between any two steps of a rebalance: none, short or long, by chance, from a seed.

What answers a fetch is late too, for that is what a rebalance can overtake.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from aiokafka.client import AIOKafkaClient
from faust.tables.recovery import Recovery
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

_REQUESTS = ("JoinGroupRequest", "SyncGroupRequest", "OffsetFetchRequest", "OffsetRequest", "FetchRequest")
_STEPS: list[tuple[type, str]] = [
    (AIOKafkaConsumerThread, "on_partitions_revoked"),
    (AIOKafkaConsumerThread, "on_partitions_assigned"),
    (AIOKafkaConsumerThread, "seek_to_committed"),
    (Consumer, "on_partitions_assigned"),
    (Recovery, "_resume_streams"),
]


def install(set_attribute: Callable[[type, str, Any], None], seed: int) -> None:
    """Put the delays in with `set_attribute`, for all consumers of this process."""
    chance = random.Random(seed)

    def slow(owner: type, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        original = getattr(owner, name)

        async def slowed(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not when(*args):
                return await original(self, *args, **kwargs)
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.01, 0.05, 0.3)))
            answer = await original(self, *args, **kwargs)
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.01, 0.05, 0.3)))
            return answer

        set_attribute(owner, name, slowed)

    slow(AIOKafkaClient, "send", lambda _node, request, *_: type(request).__name__ in _REQUESTS)
    for owner, name in _STEPS:
        slow(owner, name)
