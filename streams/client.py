"""A client for producers: send requests, wait for their results; needs neither Faust nor torch nor MLflow."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import msgspec
from aiokafka import AIOKafkaProducer

from streams.cloudevents import REQUEST_TYPE, BinaryHeaders
from streams.kafka import broker_answering, connection_options
from streams.messages import Request, Result, decode_result, encode
from streams.settings import KafkaSettings
from streams.topic_reader import TopicReader
from streams.topics import Topics


class InferenceClient:
    """Sends requests to the workers and hands back their results.

        async with InferenceClient(settings.kafka, tasks=["asr"]) as client:
            result = await client.infer(Request(task="asr", engine="transformers", ...))

    Reads the result topics of `tasks` from their current end, outside any consumer group, so clients never take
    results from each other. Lives on one event loop; any number of its tasks may wait at once.
    """

    def __init__(
        self, kafka: KafkaSettings, *, tasks: Iterable[str], source: str = "inferstream/client"
    ) -> None:
        self._kafka = kafka
        self._tasks = tuple(tasks)
        self._topics = Topics(kafka.topic_prefix)
        self._headers = BinaryHeaders(REQUEST_TYPE, source)
        self._waiting: dict[str, asyncio.Future[Result]] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            producer = AIOKafkaProducer(
                **connection_options(self._kafka),
                acks="all",
                max_request_size=self._kafka.max_message_bytes,
                request_timeout_ms=int(self._kafka.producer_timeout_s * 1000),
            )
            stack.push_async_callback(producer.stop)
            async with broker_answering(self._kafka):
                await producer.start()
            reader = await stack.enter_async_context(
                TopicReader(self._kafka, [self._topics.results(task) for task in self._tasks])
            )
            reading = asyncio.create_task(self._read(reader), name="results")
            stack.push_async_callback(_end, reading)
            self._producer = producer
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._waiting.values():
            future.cancel()
        await self._exit.aclose()

    async def send(self, request: Request, *, key: bytes | None = None) -> str:
        """Produce `request`, wait for the broker's ack and return its id (made up where it has none).

        Raises:
            KafkaError: the broker did not take it.
        """
        if not request.id:
            request = msgspec.structs.replace(request, id=uuid.uuid4().hex)
        headers = self._headers.of(request.id, time.time())
        await self.send_bytes(request.task, encode(request), key=key, headers=headers)
        return request.id

    async def send_bytes(
        self,
        task: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> str:
        """Produce any bytes to the request topic of `task` and return the id a worker derives for them."""
        sent = await self._producer.send_and_wait(
            self._topics.requests(task), value, key=key, headers=headers
        )
        return f"{sent.topic}/{sent.partition}/{sent.offset}"

    async def infer(self, request: Request, *, key: bytes | None = None, timeout_s: float = 300.0) -> Result:
        """Send `request` and return its result, success or failure.

        Raises:
            TimeoutError: no result within `timeout_s`; the request may still be answered later.
            KafkaError: the broker did not take it.
        """
        if not request.id:
            request = msgspec.structs.replace(request, id=uuid.uuid4().hex)
        future = self.expect(request.id)
        try:
            await self.send(request, key=key)
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._waiting.pop(request.id, None)

    async def infer_many(
        self, requests: Iterable[Request], *, timeout_s: float = 300.0, max_outstanding: int = 256
    ) -> AsyncIterator[Result]:
        """Send all `requests` and yield their results as they come; at most `max_outstanding` are under way.

        Raises:
            TimeoutError: one of them has no result within `timeout_s` of being sent.
            KafkaError: the broker did not take one of them.
        """
        waiting: set[asyncio.Task[Result]] = set()
        try:
            for request in requests:
                if len(waiting) >= max_outstanding:
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
                waiting.add(asyncio.create_task(self.infer(request, timeout_s=timeout_s)))
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()

    def expect(self, request_id: str) -> asyncio.Future[Result]:
        """Return a future of the result with that id; call before sending what will be answered."""
        return self._waiting.setdefault(request_id, asyncio.get_running_loop().create_future())

    async def _read(self, reader: TopicReader) -> None:
        try:
            async for record in reader.records():
                if record.value is None:
                    continue
                result = decode_result(record.value)
                future = self._waiting.get(result.id)
                if future is not None and not future.done():
                    future.set_result(result)
        except Exception as error:
            # Whoever waits must hear of it; nobody else would.
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            raise


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
