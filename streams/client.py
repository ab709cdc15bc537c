"""A client for producers: send requests, wait for their results; needs neither Faust nor torch nor MLflow."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.client_errors import (
    ClientClosed,
    ClientError,
    NoAnswer,
    RequestNotSent,
    RequestsUnanswered,
    ResultsNotReadable,
    TaskNotOpened,
)
from streams.cloudevents import REQUEST_TYPE, BinaryHeaders
from streams.kafka.connection import broker_answering, connection_options, is_passing_for
from streams.kafka.patient_connections import PatientConnections
from streams.messages import Request, Result, decode_result, encode
from streams.settings import KafkaSettings
from streams.topic_reader import TopicReader
from streams.topics import Topics

T = TypeVar("T")

_PAUSE_S = 0.2
"""Time between attempts to send what the broker did not take."""


class InferenceClient:
    """Sends requests to the workers and hands back their results.

        async with InferenceClient(settings.kafka, tasks=["asr"]) as client:
            result = await client.infer(Request(task="asr", engine="transformers", ...))

    Reads the result topics of `tasks` from their current end, outside any consumer group, so clients never take
    results from each other. Lives on one event loop; any number of its tasks may wait at once. A broker that dies, or
    a partition that gets another leader, is ridden out as long as a call has time. A request may be sent twice then:
    it has one id, and the first result counts. `streams.client_errors` has all that it raises.
    """

    def __init__(
        self, kafka: KafkaSettings, *, tasks: Iterable[str], source: str = "inferstream/client"
    ) -> None:
        """`tasks` are those whose results are read; requests of any task may be sent."""
        self._kafka = kafka
        self._tasks = tuple(tasks)
        self._topics = Topics(kafka.topic_prefix)
        self._headers = BinaryHeaders(REQUEST_TYPE, source)
        self._waiting: dict[str, list[asyncio.Future[Result]]] = {}
        self._seen: dict[str, float] = {}
        """When the latest result of each task came."""
        self._failure: ClientError | None = None
        """Why no result will come any more."""
        self._ending: asyncio.Future[None]
        """Done once there is such a reason."""

    async def __aenter__(self) -> Self:
        self._ending = asyncio.get_running_loop().create_future()
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
            PatientConnections(producer.client)
            reader = await stack.enter_async_context(
                TopicReader(self._kafka, [self._topics.results(task) for task in self._tasks])
            )
            reading = asyncio.create_task(self._read(reader), name="results")
            stack.push_async_callback(_end, reading)
            self._producer = producer
            self._opened = time.monotonic()
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; calls that wait end with ClientClosed, and what was sent is sent to the end."""
        self._end_with(ClientClosed("the client was closed"))
        await self._exit.aclose()

    async def send(
        self, request: Request, *, key: bytes | None = None, timeout_s: float | None = None
    ) -> str:
        """Produce `request`, wait for the broker's ack and return its id (made up where it has none).

        `timeout_s` bounds it; default: twice kafka.producer_timeout_s.

        Raises:
            RequestNotSent: permanent; the broker refuses it.
            NoAnswer: retryable; no broker took it in time.
            ClientClosed: permanent.
        """
        request = _with_id(request)
        await self._send(request, key, time.monotonic() + self._time_to_send(timeout_s), timeout_s)
        return request.id

    async def send_bytes(
        self,
        task: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> str:
        """Produce any bytes to the request topic of `task` and return the id a worker derives for them.

        Raises:
            RequestNotSent, NoAnswer, ClientClosed: as `send`.
        """
        until = time.monotonic() + self._time_to_send(None)
        return await self._produce(task, value, key, headers, until, "a message")

    async def infer(self, request: Request, *, key: bytes | None = None, timeout_s: float = 300.0) -> Result:
        """Send `request` and return its result, success or failure.

        Raises:
            TaskNotOpened: permanent; the client was not opened for its task. Nothing was sent.
            RequestNotSent: permanent; the broker refuses it.
            NoAnswer: retryable; no result within `timeout_s`, sending included; it may still be answered later.
            ResultsNotReadable, ClientClosed: permanent.
        """
        self._check_opened(request)
        request = _with_id(request)
        until = time.monotonic() + timeout_s
        future = self.expect(request.id)
        try:
            await self._send(request, key, until, timeout_s)
            async with asyncio.timeout(until - time.monotonic()):
                return await future
        except TimeoutError as error:
            if isinstance(error, ClientError):
                raise
            raise self._no_answer(request, timeout_s) from None
        finally:
            future.cancel()

    async def infer_many(
        self, requests: Iterable[Request], *, timeout_s: float = 300.0, max_outstanding: int = 256
    ) -> AsyncGenerator[Result]:
        """Send all `requests` and yield their results as they come, in no order: `Result.id` tells whose each is.

        At most `max_outstanding` are under way, and `requests` is read as far as that allows. A request that a worker
        fails is a result like any other. One without a result costs the others nothing: theirs are yielded first.
        Leaving the loop early cancels the waiting, not the requests.

        Raises:
            TaskNotOpened: permanent; at once, at the first request of a task that the client was not opened for.
            RequestsUnanswered: at the end; some requests have no result within `timeout_s` of being begun.
        """
        waiting: dict[asyncio.Task[Result], str] = {}
        errors: dict[str, ClientError] = {}
        sent = 0

        async def some() -> list[Result]:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            results = []
            for task in done:
                identity = waiting.pop(task)
                try:
                    results.append(task.result())
                except ClientError as error:
                    errors[identity] = error
            return results

        try:
            if isinstance(requests, list | tuple):
                for request in requests:
                    self._check_opened(request)
            for request in requests:
                self._check_opened(request)
                while len(waiting) >= max_outstanding:
                    for result in await some():
                        yield result
                request = _with_id(request)
                waiting[asyncio.create_task(self.infer(request, timeout_s=timeout_s))] = request.id
                sent += 1
            while waiting:
                for result in await some():
                    yield result
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if errors:
            raise RequestsUnanswered(errors, sent)

    def expect(self, request_id: str) -> asyncio.Future[Result]:
        """Return a future of the result with that id; call before sending what will be answered.

        It ends with a ClientError where the client ends before. Each call has a future of its own, which may be
        cancelled.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            future.set_exception(self._failure)
            future.exception()  # whoever never looks at it is told by nobody else
            return future
        self._waiting.setdefault(request_id, []).append(future)
        future.add_done_callback(lambda done: self._forget(request_id, done))
        return future

    def _forget(self, request_id: str, future: asyncio.Future[Result]) -> None:
        waiting = self._waiting.get(request_id, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop(request_id, None)

    def _check_opened(self, request: Request) -> None:
        if request.task not in self._tasks:
            raise TaskNotOpened(
                f"this client was opened for the tasks {', '.join(self._tasks) or '(none)'} and reads no results of "
                f"{request.task!r}; name it in InferenceClient(tasks=...), or send the request alone by send()"
            )
        if request.reply_to is not None and request.reply_to != self._topics.results(request.task):
            raise TaskNotOpened(
                f"the result would go to reply_to {request.reply_to!r}, which this client does not read; leave it "
                "out, or send the request alone by send()"
            )

    def _time_to_send(self, timeout_s: float | None) -> float:
        return 2 * self._kafka.producer_timeout_s if timeout_s is None else timeout_s

    async def _send(self, request: Request, key: bytes | None, until: float, timeout_s: float | None) -> None:
        headers = self._headers.of(request.id, time.time())
        await self._produce(
            request.task, encode(request), key, headers, until, f"request {request.id}", request.id
        )

    async def _produce(
        self,
        task: str,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes]] | None,
        until: float,
        what: str,
        request_id: str = "",
    ) -> str:
        """Produce to the request topic of `task`, again while a broker is away, and return where it lies."""
        topic = self._topics.requests(task)
        began = time.monotonic()
        reason = "no broker answered"
        while True:
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    sent = await self._or_end(
                        self._producer.send_and_wait(topic, value, key=key, headers=headers)
                    )
                return f"{sent.topic}/{sent.partition}/{sent.offset}"
            except TimeoutError:
                waited_s = time.monotonic() - began
                raise NoAnswer(
                    f"{what} was not taken by topic {topic} within {waited_s:.1f} s: {reason}", request_id
                ) from None
            except KafkaError as error:
                if not await is_passing_for(self._producer, error):
                    raise RequestNotSent(f"topic {topic} does not take {what}: {error}") from None
                reason = str(error)
            await asyncio.sleep(min(_PAUSE_S, max(0.0, until - time.monotonic())))

    async def _or_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, unless the client ends before."""
        if self._failure is not None:
            work.close()
            raise self._failure
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            assert self._failure is not None
            raise self._failure
        finally:
            working.cancel()

    def _no_answer(self, request: Request, timeout_s: float) -> NoAnswer:
        topic = self._topics.results(request.task)
        seen = self._seen.get(request.task)
        last = (
            "none came since the client was opened"
            if seen is None
            else f"the latest of any request came {time.monotonic() - seen:.1f} s ago"
        )
        return NoAnswer(
            f"no result for request {request.id} of task {request.task} on topic {topic} within {timeout_s:g} s; "
            f"{last}: does a worker consume {self._topics.requests(request.task)}? (inferstream doctor)",
            request.id,
        )

    def _end_with(self, failure: ClientError) -> None:
        """Tell everybody who waits that no result will come any more."""
        if self._failure is None:
            self._failure = failure
            self._ending.set_result(None)
        for futures in list(self._waiting.values()):
            for future in list(futures):
                if not future.done():
                    future.set_exception(failure)
                    future.exception()  # a future of `expect` may be nobody's any more

    async def _read(self, reader: TopicReader) -> None:
        tasks = {self._topics.results(task): task for task in self._tasks}
        try:
            async for record in reader.records():
                self._seen[tasks[record.topic]] = time.monotonic()
                try:
                    result = decode_result(record.value or b"")
                except msgspec.MsgspecError:
                    continue  # somebody else's record, or a tombstone
                for future in list(self._waiting.get(result.id, ())):
                    if not future.done():
                        future.set_result(result)
        except Exception as error:  # noqa: BLE001 - whoever waits is told; nobody else would be
            failure = ResultsNotReadable(f"results cannot be read any more: {error}")
            failure.__cause__ = error
            self._end_with(failure)


def _with_id(request: Request) -> Request:
    return request if request.id else msgspec.structs.replace(request, id=uuid.uuid4().hex)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
