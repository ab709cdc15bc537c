"""Connects to a broker that is away or silent with growing pauses, and asks the others meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.errors import RequestTimedOutError

from streams.kafka.aiokafka_internals import connect_by

SILENT_S = 5.0
"""Longest time to make a connection while other brokers answer; up to six times as long where none does."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_FIRST_LOOK_S = 0.1
_LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class _Way:
    """One of the connections to a broker, and how often it failed recently."""

    pause_s: float = FIRST_PAUSE_S
    failures: int = 0
    failed_at: float = 0.0
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)


class PatientConnections:
    """Makes one aiokafka client pause between attempts to connect to a broker that is away.

    The pause is 1 s while another broker of the cluster answers, and doubles from 1 s to 30 s where none does. It
    ends early when a closed port opens, which is checked once a second without a log line. Code that asks for a
    connection meanwhile waits for the result of that one attempt. Connections to other brokers are made beside it,
    and requests that any broker can answer go to those. Lives on the loop of the client.
    """

    def __init__(self, client: Any) -> None:
        """Take over how `client` (AIOKafkaClient) makes its connections."""
        self._client = client
        self._connect = connect_by(client, self._connection)
        self._any_node = client.get_random_node
        client.get_random_node = self._random_node
        self._look_up = client.coordinator_lookup
        client.coordinator_lookup = self._coordinator_lookup
        self._next_node: Any = None
        """The broker that `_random_node` returns next, instead of choosing."""
        self._silent_until: dict[Any, float] = {}
        """Until when to avoid brokers that had a connection and did not answer."""
        self._look_up_s = SILENT_S
        self._now = asyncio.get_running_loop().time
        self._ways: defaultdict[Any, _Way] = defaultdict(_Way)
        self._answered_at = float("-inf")
        """When a connection to any broker was last made."""

    async def _connection(self, node: Any, *, group: Any = ConnectionGroup.DEFAULT, **options: Any) -> Any:
        way = self._ways[node, group]
        failures = way.failures
        async with way.one_at_a_time:
            if way.failures > failures:
                return None  # another caller has just tried
            if way.failures and self._client.cluster.broker_metadata(node) is not None:
                await self._pause(node, way)
            # Where all seem to be silent, they may be slow.
            is_alone = self._answered_at < way.failed_at
            limit_s = min(SILENT_S * way.pause_s, 6 * SILENT_S) if is_alone else SILENT_S
            try:
                async with asyncio.timeout(limit_s):
                    connection = await self._connect(node, group=group, **options)
            except TimeoutError:
                connection = None
                self._client.force_metadata_update()  # as aiokafka does where it gives up itself
            if connection is not None:
                way.failures, way.pause_s, self._answered_at = 0, FIRST_PAUSE_S, self._now()
                return connection
            if way.failures:
                way.pause_s = min(2 * way.pause_s, LONGEST_PAUSE_S)
            way.failures, way.failed_at = way.failures + 1, self._now()
            return None

    def _random_node(self) -> Any:
        """Return a broker that could be connected to the last time and answered, if there is one."""
        if (chosen := self._next_node) is not None:
            self._next_node = None
            return chosen
        now = self._now()
        away = {node for (node, _), way in self._ways.items() if way.failures}
        away.update(node for node, until in self._silent_until.items() if now < until)
        here = [one.nodeId for one in self._client.cluster.brokers() if one.nodeId not in away]
        return random.choice(here) if here else self._any_node()

    async def _coordinator_lookup(self, kind: Any, key: str) -> Any:
        """Ask one broker after another for the coordinator: aiokafka would wait for a frozen one.

        Raises:
            KafkaError: retryable; the broker's error, or RequestTimedOutError where none answers.
        """
        for _ in range(max(1, len(self._client.cluster.brokers()))):
            node = self._random_node()
            try:
                async with asyncio.timeout(self._look_up_s):
                    self._next_node = node  # the next call asks for metadata first
                    coordinator = await self._look_up(kind, key)
            except TimeoutError:
                self._silent_until[node] = self._now() + LONGEST_PAUSE_S
            else:
                self._look_up_s = SILENT_S
                return coordinator
        self._look_up_s = min(2 * self._look_up_s, 6 * SILENT_S)  # all brokers may be slow
        raise RequestTimedOutError

    async def _pause(self, node: Any, way: _Way) -> None:
        look_s, closed = _FIRST_LOOK_S, set()
        while True:
            another_answers = self._answered_at >= way.failed_at
            left_s = way.failed_at + (FIRST_PAUSE_S if another_answers else way.pause_s) - self._now()
            if left_s <= 0:
                return
            await asyncio.sleep(min(look_s, left_s))
            look_s = min(2 * look_s, _LOOK_EVERY_S)
            for one in {node, self._any_node()}:
                broker = self._client.cluster.broker_metadata(one)
                if broker is None:
                    continue
                if not await is_open(broker.host, broker.port):
                    closed.add(one)
                elif one in closed:
                    return


async def is_open(host: str, port: int) -> bool:
    """Return whether a port accepts connections."""
    try:
        async with asyncio.timeout(_LOOK_EVERY_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
