"""Asks the brokers every few seconds whether they are there, so that an outage is known at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest

from engines.log_context import shared_task
from handlers.logger import get_logger
from streams.kafka.aiokafka_internals import adapt_connections
from streams.kafka.connection import connection_options
from streams.kafka.connection_problems import NO_ANSWER, first_to_answer
from streams.logs import tell_left_out
from streams.settings import KafkaSettings

log = get_logger(__name__)

EVERY_S = 2.0
PATIENCE_S = 4.0
"""What a broker may take to answer; so an outage is known within 6 s."""
_AT_A_STOP_S = 0.5
_SECOND_LINE_AT_S = 30.0


class BrokerWatch:
    """The state of the brokers; lives on one event loop.

    Each has a separate connection, so that other traffic does not delay the answer. While none answers, one line says
    so, and one after 30 s, 60 s, 120 s and so on; then one that they are back.
    """

    def __init__(
        self,
        servers: str,
        connect: Callable[[], Awaitable[AIOKafkaClient]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` returns a client that has been told which brokers there are, or raises one of `NO_ANSWER`."""
        self._servers = servers
        self._connect = connect
        self._clock = clock
        self._client: AIOKafkaClient | None = None
        self.known = 0
        """How many brokers the cluster names."""
        self.answering = 0
        """How many of them answered the last time."""
        self._since: float | None = None
        self._line_at_s = 0.0
        """How long an outage has lasted when it is logged next."""

    @property
    def away_s(self) -> float:
        """Seconds since no broker answers; 0 where one does."""
        return 0.0 if self._since is None else self._clock() - self._since

    def report(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        present = "ok" if self.answering >= self.known else "degraded"
        return {
            "status": present if self._since is None else "away",
            "known": self.known,
            "answering": self.answering,
            "away_s": round(self.away_s, 3),
        }

    async def any_answers(self) -> bool:
        """Return, within half a second, whether any broker answers right now."""
        asking = [asyncio.create_task(self._answers(node)) for node in self._nodes()]
        try:
            with contextlib.suppress(TimeoutError):
                for answered in asyncio.as_completed(asking, timeout=_AT_A_STOP_S):
                    if await answered:
                        return True
        finally:
            for one in asking:
                one.cancel()
        return False

    async def look(self) -> None:
        """Ask all once."""
        asked_at = self._clock()
        if not self.answering:  # not yet, or all addresses have changed
            with contextlib.suppress(*NO_ANSWER):
                async with asyncio.timeout(PATIENCE_S):
                    client = await self._connect()
                await self.close()
                self._client = client
        answers = await asyncio.gather(*map(self._answers, nodes := self._nodes()))
        self.known, self.answering = len(nodes), sum(answers)
        if self.answering:
            if self._since is not None:
                log.info("broker_back", servers=self._servers, away_s=round(self.away_s, 1))
                tell_left_out()
            self._since = None
            return
        if self._since is None:
            self._since, self._line_at_s = asked_at, 0.0
        if self.away_s >= self._line_at_s:
            log.warning("broker_away", servers=self._servers, away_s=round(self.away_s, 1))
            self._line_at_s = max(_SECOND_LINE_AT_S, 2 * self._line_at_s)

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    def _nodes(self) -> list[int]:
        return [] if self._client is None else [one.nodeId for one in self._client.cluster.brokers()]

    async def _answers(self, node: int) -> bool:
        assert self._client is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._client.send(node, MetadataRequest([]))
        except NO_ANSWER:
            return False
        return True


@contextlib.asynccontextmanager
async def watching(kafka: KafkaSettings) -> AsyncIterator[BrokerWatch]:
    """Watch the brokers during the block."""
    options = connection_options(kafka)

    async def connect() -> AIOKafkaClient:
        server = await first_to_answer(options)
        limit_ms = int(PATIENCE_S * 1000)
        client = AIOKafkaClient(
            **{**options, "bootstrap_servers": server},
            client_id="inferstream-watch",
            request_timeout_ms=limit_ms,
        )
        await client.bootstrap()
        adapt_connections(client)
        return client

    watch = BrokerWatch(kafka.bootstrap_servers, connect)
    task = shared_task(watch.run(), name="broker watch")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait([task])
        await watch.close()
