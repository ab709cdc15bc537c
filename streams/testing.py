"""Runs a whole worker without Kafka and MLflow, for tests of your own handlers and engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel, parse_model_name
from handlers.errors import UnknownModel
from streams.delivery.memory_broker import MemoryBroker
from streams.delivery.memory_client import MemorySink, MemorySource
from streams.delivery.port import ProducerRecord
from streams.delivery.stream import Stream
from streams.kafka.topics import Topics
from streams.messages import Result, decode_result, encode
from streams.pipeline.fast_lane import FastLane
from streams.pipeline.runtime import open_runtime
from streams.plugins import tasks_of
from streams.settings import Settings


class ListedModels(ModelManager):
    """Knows the models that it is given, each as version 1 with these tags, and asks no server.

    An engine that needs files finds them in the folder of the tag `physical_path`, which must be below one of
    `mlflow.physical_roots`.
    """

    def __init__(self, settings: Settings, models: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(settings.mlflow, settings.cache)
        self._models = {
            name: ResolvedModel(name, "1", f"physical://local/{name}", dict(tags)) for name, tags in models.items()
        }

    def connect(self) -> None:
        """Do nothing: there is no server."""

    def is_fresh(self, model_name: str) -> bool:
        return True

    def resolve(self, model_name: str) -> ResolvedModel:
        if (model := self._models.get(parse_model_name(model_name).name)) is None:
            raise UnknownModel(f"model_name {model_name} is not one of {', '.join(self._models)}")
        return model

    renew = resolve

    def health(self) -> dict[str, Any]:
        return {"status": "ok"}


class MemoryWorker:
    """A running worker: it answers requests on the topics of `broker`, which is in memory."""

    def __init__(self, broker: MemoryBroker, topics: Topics) -> None:
        self.broker = broker
        self.topics = topics
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the error that would end the process of a worker."""

    def fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def ended(self, delivering: asyncio.Task[None]) -> None:
        """Note that the delivery of requests has ended."""
        if not delivering.cancelled() and (error := delivering.exception()) is not None:
            self.fail(error)

    async def ask(self, request: Mapping[str, Any], *, partition: int = 0) -> Result:
        """Send a request, which must have an `id`, and return its result as soon as it is on the broker.

        Raises:
            Exception: permanent; the error that would end the process of a worker.
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
    settings: Settings, *, models: ModelManager | Mapping[str, Mapping[str, str]] | None = None
) -> AsyncIterator[MemoryWorker]:
    """Run a worker as `inferstream worker` does, on a broker in memory.

    `models` are the registered models: for each name its tags, such as `task` and `engine`; None asks the MLflow server
    of the settings. At the end every request that was taken is answered and committed, unless the worker has failed.

    Raises:
        ConfigurationError: permanent; a plugin cannot be imported, or a setting of an engine is wrong.
        Exception: permanent; what kept the requests from being committed.
    """
    if models is not None and not isinstance(models, ModelManager):
        models = ListedModels(settings, models)
    topics = Topics(settings.kafka.topic_prefix)
    async with open_runtime(settings, models=models) as runtime:
        tasks = tasks_of(settings.worker)  # after the plugins were imported
        broker = MemoryBroker(dict.fromkeys(topics.all_of(tasks), settings.kafka.partitions))
        worker = MemoryWorker(broker, topics)
        source = MemorySource(broker, settings.kafka.group_id, [topics.requests(task) for task in tasks])
        stream = Stream(
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
            stopping = asyncio.create_task(source.stop(), name="stop the source")
            await asyncio.wait([stopping, worker.failed], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            delivering.cancel()
            await asyncio.wait([stopping, delivering])
            await stream.request_consumer.close()
            if not stopping.cancelled():
                stopping.result()
