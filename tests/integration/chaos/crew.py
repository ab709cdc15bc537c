"""Workers of one group that join, leave and are killed while requests come in."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from streams.kafka.connection import broker_answering
from streams.kafka.topic_reader import TopicReader
from streams.messages import decode_event
from tests.integration.chaos.auditor import Audit, settled
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess

_STOP_MARGIN_S = 10.0
"""What a worker may take to end beyond its drain time-out, on a busy machine."""


class Crew:
    """The workers of a site that run, oldest first; all are killed at the end of the `async with` block."""

    def __init__(self, site: Site, *, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are variables of the environment of each worker."""
        self.site = site
        self.settings = settings
        """What the next worker is given."""
        self.workers: list[WorkerProcess] = []
        self._exit = ExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def start(self) -> WorkerProcess:
        """Start a worker, and return it at once."""
        worker = WorkerProcess(self.site, name=f"w{uuid.uuid4().hex[:8]}", settings=self.settings)
        self._exit.enter_context(worker)
        self.workers.append(worker)
        return worker

    async def join(self) -> WorkerProcess:
        """Start a worker and return it once it says that it consumes."""
        # From the end: at 200 requests a second their events are many.
        async with TopicReader(self.site.settings.kafka, [self.site.topics.events]) as reader:
            worker = self.start()
            hearing = asyncio.create_task(_hear_start(reader, worker.name))
            late = time.monotonic() + PATIENCE_S
            while not hearing.done():
                assert worker.process.poll() is None, f"the worker died:\n{worker.log[-4000:]}"
                assert time.monotonic() < late, f"the worker does not start:\n{worker.log[-4000:]}"
                await asyncio.wait({hearing}, timeout=0.1)
            hearing.result()
        return worker

    async def ends_with_all_answered(self, task: str = "plain") -> Audit:
        """Wait until every request of `task` is answered and committed, stop all workers, and return the audit."""
        found = await settled(self.site, task)
        await self.all_end_in_time()
        found.check()
        return found

    async def leave(self) -> None:
        """Ask the oldest worker to stop; fails the test where it does not within its drain time-out, or with 0."""
        await self.ends_in_time(self.workers.pop(0))

    def kill(self) -> None:
        """End the oldest worker as a power cut would."""
        self.workers.pop(0).kill()

    async def ends_in_time(self, worker: WorkerProcess, *, may_fail: bool = False) -> None:
        """Send SIGTERM and wait as long as the worker is allowed to take; its status is 0, unless it `may_fail`."""
        worker.process.terminate()
        allowed = self.site.settings.worker.drain_timeout_s + _STOP_MARGIN_S
        late = time.monotonic() + allowed
        while (status := worker.process.poll()) is None:
            assert time.monotonic() < late, f"no end within {allowed:g} s of SIGTERM:\n{worker.log[-4000:]}"
            await asyncio.sleep(0.05)
        assert status == 0 or may_fail, f"the worker ended with {status}:\n{worker.log[-4000:]}"

    async def all_end_in_time(self) -> None:
        """Send SIGTERM to all that run; each has to end within its drain time-out, with 0."""
        workers, self.workers = self.workers, []
        await asyncio.gather(*(self.ends_in_time(worker) for worker in workers))


async def answers_grow(site: Site, task: str, by: int, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until the results topic has grown by so many records; fails the test where it does not."""
    topic = site.topics.results(task)
    async with broker_answering(site.settings.kafka) as options:  # some may be frozen
        consumer = AIOKafkaConsumer(topic, **options, group_id=None, request_timeout_ms=5_000)
        await consumer.start()
    try:
        partitions = sorted(consumer.assignment())

        late = time.monotonic() + patience_s

        async def count() -> int:
            while True:
                try:
                    return sum((await consumer.end_offsets(partitions)).values())
                except KafkaError:  # the leader is frozen, and another not elected yet
                    assert time.monotonic() < late, f"nobody tells the end of {topic}"

        goal = await count() + by
        while await count() < goal:
            assert time.monotonic() < late, f"{topic} did not grow by {by} records within {patience_s:g} s"
            await asyncio.sleep(0.1)
    finally:
        await consumer.stop()


async def coordinator(site: Site) -> int:
    """Return the number of the node that coordinates the site's group, as a broker that answers names it."""
    async with broker_answering(site.settings.kafka) as options:
        client = AIOKafkaClient(**options, request_timeout_ms=5_000)
        await client.bootstrap()
    try:
        node: int = await client.coordinator_lookup(CoordinationType.GROUP, site.settings.kafka.group_id)
        return node
    finally:
        await client.close()


async def _hear_start(reader: TopicReader, name: str) -> None:
    async for record in reader.records():
        event = decode_event(record.value) if record.value else None
        if event and event.kind == "worker_started" and event.worker == name:
            return
