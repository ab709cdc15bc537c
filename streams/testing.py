"""A whole worker on a broker in memory, for tests of handlers and engines of your own: no Kafka, no ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from engines.models.model_manager import ModelManager
from streams.delivery.memory_broker import MemoryBroker
from streams.delivery.memory_client import MemorySink, MemorySource
from streams.delivery.port import ProducerRecord
from streams.delivery.stream import build_stream
from streams.kafka.topics import Topics
from streams.messages import Result, decode_result, encode
from streams.pipeline.fast_lane import FastLane
from streams.pipeline.runtime import open_runtime
from streams.plugins import tasks_of
from streams.settings import Settings


class MemoryWorker:
    """A running worker: what is appended to the request topics of `broker` is answered on its result topics."""

    def __init__(self, broker: MemoryBroker, topics: Topics) -> None:
        self.broker = broker
        self.topics = topics
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with what would end the process of a worker."""

    def fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def ended(self, delivering: asyncio.Task[None]) -> None:
        """Note that the delivery of requests has ended."""
        if not delivering.cancelled() and (error := delivering.exception()) is not None:
            self.fail(error)

    async def ask(self, request: Mapping[str, Any], *, partition: int = 0) -> Result:
        """Send a request, which has its own id, and return its result as soon as it is on the broker.

        Raises:
            Exception: permanent; what would end the process of a worker.
        """
        topic = self.topics.requests(request["task"])
        results = self.topics.results(request["task"])
        self.broker.append(topic, partition, [ProducerRecord(topic, None, encode(dict(request)), [])])
        while True:
            arrival = self.broker.arrival(results)
            for record in self.broker.records(results):
                result = decode_result(record.value or b"")
                if result.id == request["id"]:
                    return result
            await asyncio.wait([arrival, self.failed], return_when=asyncio.FIRST_COMPLETED)
            if self.failed.done():
                self.failed.result()


@asynccontextmanager
async def worker_in_memory(
    settings: Settings, *, models: ModelManager | None = None
) -> AsyncIterator[MemoryWorker]:
    """Run a worker as `inferstream worker` does, with a broker in memory in the place of Kafka.

    `models` is where models are looked up; by default the registry of the settings. On the way out all that was taken
    is answered and committed.

    Raises:
        ConfigurationError: permanent; a plugin cannot be imported, or an engine not be set so.
    """
    topics = Topics(settings.kafka.topic_prefix)
    async with open_runtime(settings, models=models) as runtime:
        tasks = tasks_of(settings.worker)  # after the plugins were imported
        broker = MemoryBroker(dict.fromkeys(topics.all_of(tasks), settings.kafka.partitions))
        worker = MemoryWorker(broker, topics)
        source = MemorySource(broker, settings.kafka.group_id, [topics.requests(task) for task in tasks])
        stream = build_stream(
            source,
            MemorySink(broker),
            kafka=settings.kafka,
            worker=settings.worker,
            tasks=tasks,
            answering=FastLane(runtime.pipeline, runtime.batcher),
            outcomes=runtime.manager.outcomes,
            on_fatal=worker.fail,
        )
        delivering = asyncio.create_task(stream.run(), name="deliver requests")
        delivering.add_done_callback(worker.ended)
        await source.start()
        try:
            yield worker
        finally:
            if not worker.failed.done():
                await source.stop()
            delivering.cancel()
            await asyncio.wait([delivering])
            await stream.request_consumer.close()
