"""Sends requests to one topic and times the answers that come back on another."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from aiokafka import AIOKafkaProducer

from streams.kafka.topic_reader import TopicReader
from streams.settings import KafkaSettings

PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer; the times are those of this process's monotonic clock, in seconds."""

    sent_at: float
    came_at: float
    value: bytes

    @property
    def ms(self) -> float:
        """Milliseconds from sending to reading."""
        return (self.came_at - self.sent_at) * 1000


class Stopwatch:
    """A client that writes down when each request was sent and its answer read; lives on one event loop."""

    def __init__(self, kafka: KafkaSettings, requests: str, results: str) -> None:
        self._kafka, self._requests, self._results = kafka, requests, results
        self._sent_at: dict[str, float] = {}
        self._sending: list[asyncio.Future[object]] = []
        self.answers: dict[str, Answered] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._producer = AIOKafkaProducer(bootstrap_servers=self._kafka.bootstrap_servers, acks="all")
            await stack.enter_async_context(self._producer)
            reader = await stack.enter_async_context(TopicReader(self._kafka, [self._results]))
            self._reading = asyncio.create_task(self._read(reader))
            stack.push_async_callback(asyncio.wait, {self._reading})
            stack.callback(self._reading.cancel)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def send(self, identity: str, value: bytes) -> None:
        """Send a request whose answer will carry the id `identity`; does not wait for the broker."""
        self._sent_at[identity] = time.monotonic()
        self._sending.append(await self._producer.send(self._requests, value))

    async def send_evenly(self, requests: Iterable[tuple[str, bytes]], *, rate_per_s: float) -> None:
        """Send ids and requests at a steady rate, whatever becomes of those before; late ones catch up."""
        began = time.monotonic()
        for position, (identity, value) in enumerate(requests):
            await asyncio.sleep(max(0.0, began + position / rate_per_s - time.monotonic()))
            await self.send(identity, value)

    async def answered(self, identities: Iterable[str], *, patience_s: float = PATIENCE_S) -> list[Answered]:
        """Return the answers of these requests, in their order, once all are there.

        Raises:
            TimeoutError: some never came.
        """
        await asyncio.gather(*self._sending)
        self._sending.clear()
        awaited = list(identities)
        async with asyncio.timeout(patience_s):
            while not self.answers.keys() >= set(awaited):
                if self._reading.done():
                    self._reading.result()
                await asyncio.sleep(0.02)
        return [self.answers[identity] for identity in awaited]

    async def _read(self, reader: TopicReader) -> None:
        async for record in reader.records():
            came_at = time.monotonic()
            assert record.value is not None
            identity = json.loads(record.value)["id"]
            # What another client sent before this one came is none of ours.
            if identity in self._sent_at:
                self.answers[identity] = Answered(self._sent_at[identity], came_at, record.value)
