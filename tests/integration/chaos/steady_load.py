"""A producer that sends at a steady rate, whatever happens to workers and brokers meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.messages import encode
from tests.integration.chaos.deliveries import sleepy
from tests.integration.worker_process import PATIENCE_S, Site

_TICK_S = 0.02


class SteadyLoad:
    """Sends requests of one task for the length of an `async with` block; on leaving, all sent are acknowledged.

    What cannot be sent while brokers are away is counted in `refused`. Slots that were missed are not made up
    for. One request in ten sleeps for a few milliseconds, so that answers finish out of order.
    """

    def __init__(self, site: Site, task: str, *, rate_per_s: float, **data: Any) -> None:
        """`data` goes into every request. A send that is retried may leave two records with one id."""
        self._site = site
        self._task = task
        self._rate_per_s = rate_per_s
        self._data = data
        self._name = uuid.uuid4().hex[:6]
        self._producer = AIOKafkaProducer(
            bootstrap_servers=site.settings.kafka.bootstrap_servers,
            acks="all",
            request_timeout_ms=20_000,
            metadata_max_age_ms=2_000,
        )
        self.acknowledged: set[str] = set()
        """Ids that the brokers have."""
        self.refused: set[str] = set()
        """Ids of which that is not known."""

    async def __aenter__(self) -> Self:
        await self._producer.start()
        self._sending = asyncio.create_task(self._send())
        self._waiting: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sending.cancel()
        await asyncio.wait({self._sending})
        try:
            if not self._sending.cancelled():
                self._sending.result()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*self._waiting)
        finally:
            await self._producer.stop()

    async def _send(self) -> None:
        topic = self._site.topics.requests(self._task)
        numbers = itertools.count()
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now - due > 1.0:
                due = now
            while due <= now:
                due += 1 / self._rate_per_s
                number = next(numbers)
                identity = f"{self._name}-{number:06d}"
                request = sleepy(identity, task=self._task, seconds=0.0 if number % 10 else 0.005, **self._data)
                one = asyncio.create_task(self._send_one(topic, identity, encode(request)))
                self._waiting.add(one)
                one.add_done_callback(self._waiting.discard)
            await asyncio.sleep(_TICK_S)

    async def _send_one(self, topic: str, identity: str, value: bytes) -> None:
        try:
            await self._producer.send_and_wait(topic, value)
        except KafkaError:
            self.refused.add(identity)
        else:
            self.acknowledged.add(identity)
