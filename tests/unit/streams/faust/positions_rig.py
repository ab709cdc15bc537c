"""A source of records with one generation over two partitions, on brokers that are made up."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched
from streams.faust.positions import PartitionReader
from streams.settings import KafkaSettings
from tests.unit.streams.fake_brokers import Brokers, consumer_of
from tests.unit.streams.received_messages import track
from tests.unit.streams.virtual_time import virtual_time

TOPIC = "requests"
PLACE, OTHER = (TOPIC, 0), (TOPIC, 1)


class Rig:
    """A source with one generation over two partitions."""

    def __init__(self) -> None:
        async def no_pause(_: str) -> None: ...

        self.brokers = Brokers({TOPIC: 2}, no_pause)
        self.log = self.brokers.logs[PLACE]
        self.source = PartitionReader(KafkaSettings(group_id="group"))
        self.tracker = OffsetTracker()

    async def assign(self) -> None:
        self.consumer = consumer_of(self.brokers)
        await self.consumer.start()
        self.source.attach(self.consumer)
        self.consumer.subscribe([TOPIC])
        while self.consumer._subscription.reassignment_in_progress:
            await asyncio.sleep(0.01)
        self.generation = await self.source.begin()

    def topic_id(self) -> str | None:
        """Return what is noted with commits."""
        assert self.source._assignment is not None
        return self.source._assignment.topic_ids.get(TOPIC)

    def epoch(self) -> int:
        """Return the number of the log that is read of the first partition."""
        assert self.source._assignment is not None
        return self.source._assignment.readings[PLACE].epoch

    async def next(self, *, timeout_s: float = 5.0) -> list[Fetched]:
        """Return what comes next, nothing where nothing does."""
        fetched: list[Fetched] = []
        await self.source.deliver(self.generation, {PLACE, OTHER}, 100, timeout_s, fetched.extend)
        for one in fetched:
            track(self.tracker, one)
            for record in one.records:
                self.tracker.done(record)
        return fetched

    async def offsets(self) -> list[int]:
        """Return the offsets of the next records that come."""
        while fetched := await self.next():
            if offsets := [record.offset for one in fetched for record in one.records]:
                return offsets
        return []

    async def close(self) -> None:
        await self.source.stop()
        await self.consumer.stop()


def with_rig(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test with a rig, in virtual time."""

    @functools.wraps(test)
    def run(**parameters: Any) -> None:
        async def in_loop() -> None:
            rig = Rig()
            try:
                await test(rig, **parameters)
            finally:
                await rig.close()

        with virtual_time() as loop:
            loop.run_until_complete(in_loop())

    signature = inspect.signature(test)
    wanted = [one for name, one in signature.parameters.items() if name != "rig"]
    run.__signature__ = signature.replace(parameters=wanted)  # type: ignore[attr-defined]
    return run
