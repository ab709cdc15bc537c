"""Connects to a broker that is away at growing pauses: aiokafka tries 10 times a second in each of its loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_FIRST_LOOK_S = 0.1
_LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class _Away:
    """A broker that could not be connected to."""

    pause_s: float = FIRST_PAUSE_S
    failures: int = 0
    failed_at: float = 0.0
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)


class PatientConnections:
    """Makes one aiokafka client, and no other, pause between attempts to connect to a broker that is away.

    The pause is 1 s while another broker of the cluster answers, and doubles from 1 s to 30 s where none does. It ends
    early when a port that was closed opens, for which it looks once a second, without a word in any log. Code that asks
    for a connection meanwhile waits, and has the answer of that one attempt. Lives on the loop of the client.
    """

    def __init__(
        self,
        client: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        is_open: Callable[[str, int], Awaitable[bool]] | None = None,
    ) -> None:
        """Take over how `client` (AIOKafkaClient) makes its connections."""
        self._client = client
        self._connect = client._get_conn
        client._get_conn = self._connection
        self._clock, self._sleep, self._is_open = clock, sleep, is_open or _is_open
        self._away: dict[Any, _Away] = {}
        self._answered_at = float("-inf")
        """When any broker had a connection."""

    async def _connection(self, node: Any, **options: Any) -> Any:
        key = (node, options.get("group"))
        away = self._away.get(key)
        if away is None:
            return self._noted(key, await self._connect(node, **options))
        failures = away.failures
        async with away.one_at_a_time:
            if away.failures != failures:
                return None  # another has just tried
            if key in self._away and self._client.cluster.broker_metadata(node) is not None:
                await self._pause(node, away)
            return self._noted(key, await self._connect(node, **options))

    def _noted(self, key: Any, connection: Any) -> Any:
        if connection is None:
            away = self._away.setdefault(key, _Away())
            if away.failures:
                away.pause_s = min(2 * away.pause_s, LONGEST_PAUSE_S)
            away.failures, away.failed_at = away.failures + 1, self._clock()
        else:
            self._away.pop(key, None)
            self._answered_at = self._clock()
        return connection

    async def _pause(self, node: Any, away: _Away) -> None:
        look_s, closed = _FIRST_LOOK_S, set()
        while True:
            another_answers = self._answered_at >= away.failed_at
            until = away.failed_at + (FIRST_PAUSE_S if another_answers else away.pause_s)
            left_s = until - self._clock()
            if left_s <= 0:
                return
            await self._sleep(min(look_s, left_s))
            look_s = min(2 * look_s, _LOOK_EVERY_S)
            for one in {node, self._client.get_random_node()}:
                broker = self._client.cluster.broker_metadata(one)
                if broker is None:
                    continue
                if not await self._is_open(broker.host, broker.port):
                    closed.add(one)
                elif one in closed:
                    return


def client_of(owner: Any) -> Any:
    """Return the AIOKafkaClient of one of aiokafka's consumers or admins, which have no public name for it."""
    return owner._client


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_LOOK_EVERY_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
