"""A client for producers: sends requests and waits for their results; needs neither Faust nor torch nor MLflow."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Self

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from engines.deadlines import checked_seconds
from streams.awaited_results import AwaitedResults
from streams.client_errors import (
    ClientClosed,
    ClientError,
    NoAnswer,
    OtherLoop,
    RequestNotSent,
    RequestsUnanswered,
    ResultsNotReadable,
    TaskNotOpened,
    reason_of,
)
from streams.kafka.cloudevents import REQUEST_TYPE, BinaryHeaders
from streams.kafka.connection import broker_answering, is_passing_for
from streams.kafka.patient_connections import PatientConnections
from streams.kafka.topic_reader import TopicReader
from streams.kafka.topics import TOPIC_NAME, Topics
from streams.many_calls import outcomes
from streams.messages import Request, Result, decode_result
from streams.request_bytes import request_bytes
from streams.settings import KafkaSettings

_PAUSE_S = 0.2
"""Time between attempts to send a record that the broker did not take."""


class InferenceClient:
    """Sends requests to the workers and hands back their results.

        async with InferenceClient(settings.kafka, tasks=["asr"]) as client:
            result = await client.infer(Request(task="asr", engine="transformers", ...))

    Reads the result topics of `tasks` from their current end, outside any consumer group, so clients never take
    results from each other. It is opened once and lives on the event loop that opens it: any number of tasks of that
    loop may use it at once, other threads may not. When a broker dies or a partition changes its leader, calls go on
    until their time is over. A request may be sent twice then; every call that waits for its id gets the first
    result. `streams.client_errors` has all that it raises.
    """

    def __init__(self, kafka: KafkaSettings, *, tasks: Iterable[str], source: str = "inferstream/client") -> None:
        """`tasks` are the tasks whose results are read; requests of any task may be sent."""
        self._kafka = kafka
        self._tasks = tuple(tasks)
        self._topics = Topics(kafka.topic_prefix)
        self._headers = BinaryHeaders(REQUEST_TYPE, source)
        self._awaited: AwaitedResults | None = None
        """None until it is open."""
        self._was_opened = False
        self._send_timeout_s = 2 * kafka.producer_timeout_s
        self._seen: dict[str, float] = {}
        """When the latest result of each task arrived."""

    async def __aenter__(self) -> Self:
        """Connect, and read results from now on.

        Raises:
            ClientError: permanent; it is open already, or was closed.
            BrokerUnavailable: retryable; says why no broker can be talked to.
            TopicsNotReady: permanent; a result topic is missing, or a right to it.
            ConfigurationError: permanent; a certificate file cannot be used.
        """
        if self._was_opened:
            raise ClientError("a client is opened once; make another InferenceClient")
        self._was_opened = True
        try:
            await self._open()
        except BaseException:
            self._was_opened = False
            raise
        return self

    async def _open(self) -> None:
        awaited = AwaitedResults()
        async with AsyncExitStack() as stack:
            async with broker_answering(self._kafka) as options:
                producer = AIOKafkaProducer(
                    **options,
                    acks="all",
                    max_request_size=self._kafka.max_message_bytes,
                    request_timeout_ms=int(self._kafka.producer_timeout_s * 1000),
                )
                stack.push_async_callback(producer.stop)
                await producer.start()
            PatientConnections(producer.client)
            reader = await stack.enter_async_context(
                TopicReader(self._kafka, [self._topics.results(task) for task in self._tasks])
            )
            reading = asyncio.create_task(self._read(reader, awaited), name="results")
            stack.push_async_callback(_end, reading)
            self._producer = producer
            self._awaited = awaited
            self._exit = stack.pop_all()

    async def __aexit__(self, *_: object) -> None:
        """Close: waiting calls end with ClientClosed; records under way are still sent."""
        if self._awaited is None:
            return
        self._awaited.end(ClientClosed("the client was closed"))
        await self._exit.aclose()

    async def send(self, request: Request, *, key: bytes | None = None, timeout_s: float | None = None) -> str:
        """Produce `request`, wait for the broker's ack and return its id (a new one where it has none).

        `timeout_s` bounds it; default: twice kafka.producer_timeout_s.

        Raises:
            ValueError: permanent; `timeout_s` is not a finite number above 0.
            RequestNotSent: permanent; the broker refuses it.
            NoAnswer: retryable; no broker took it in time.
            ClientClosed: permanent.
        """
        request = _with_id(request)
        limit_s = checked_seconds("timeout_s", self._send_timeout_s if timeout_s is None else timeout_s)
        await self._send(request, key, time.monotonic() + limit_s)
        return request.id

    async def send_bytes(
        self,
        task: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> str:
        """Produce any bytes to the request topic of `task` and return the id a worker derives for them; raises as
        `send`."""
        return await self._produce(task, value, key, headers, time.monotonic() + self._send_timeout_s)

    async def infer(self, request: Request, *, key: bytes | None = None, timeout_s: float = 300.0) -> Result:
        """Send `request` and return its result, success or failure.

        Raises:
            ValueError: permanent; `timeout_s` is not a finite number above 0. Nothing was sent.
            TaskNotOpened: permanent; the client was not opened for its task. Nothing was sent.
            RequestNotSent: permanent; the broker refuses it.
            NoAnswer: retryable; no result within `timeout_s`, sending included; it may still be answered later.
            ResultsNotReadable, ClientClosed: permanent.
        """
        until = time.monotonic() + checked_seconds("timeout_s", timeout_s)
        request = self._prepared(request)
        future = self.expect(request.id)
        try:
            await self._send(request, key, until)
            async with asyncio.timeout(until - time.monotonic()):
                return await future
        except TimeoutError as error:
            if isinstance(error, ClientError):
                raise
            raise self._no_answer(request, timeout_s) from None
        finally:
            future.cancel()

    async def infer_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        timeout_s: float = 300.0,
        max_outstanding: int = 256,
    ) -> AsyncGenerator[Result]:
        """Send all `requests` and yield their results as they arrive, in any order: match them by `Result.id`.

        At most `max_outstanding` requests are under way or not yet yielded; `requests` is read one ahead of that, on
        the client's loop. A request that a worker fails is a result like any other. If a request has no result, or
        `requests` itself raises, the results of the others are yielded first. A second request with the same id is
        sent when the first has ended. Leaving the loop early cancels the waiting, not the requests.

        Raises:
            TaskNotOpened: permanent; at once, at the first request of a task that the client was not opened for.
            RequestsUnanswered: at the end; some requests have no result within `timeout_s` of being begun.
            ValueError: permanent; `max_outstanding` is below 1, or `timeout_s` is not a finite number above 0.
        """
        checked_seconds("timeout_s", timeout_s)
        if max_outstanding < 1:
            raise ValueError(f"max_outstanding={max_outstanding} lets no request begin; it must be 1 or more")
        if isinstance(requests, list | tuple):
            for request in requests:
                self._prepared(request)
        errors: list[tuple[str, ClientError]] = []
        count = 0
        infer = partial(self.infer, timeout_s=timeout_s)
        async with aclosing(outcomes(requests, self._prepared, infer, most=max_outstanding)) as ended:
            async for identity, outcome in ended:
                count += 1
                if isinstance(outcome, ClientError):
                    errors.append((identity, outcome))
                else:
                    yield outcome
        if errors:
            raise RequestsUnanswered(errors, count)

    def expect(self, request_id: str) -> asyncio.Future[Result]:
        """Return a future of the result with that id; call it before sending the request.

        It ends with a ClientError where the client ends before. Each call has its own future, which may be cancelled.

        Raises:
            ClientClosed, OtherLoop: permanent; the client is not open, or on another loop.
        """
        return self._results().expect(request_id)

    def _results(self) -> AwaitedResults:
        if self._awaited is None:
            raise ClientClosed("the client is not open; use it in `async with`")
        if asyncio.get_running_loop() is not self._awaited.loop:
            raise OtherLoop(
                "this client lives on the event loop that opened it; open another InferenceClient here, or hand the "
                "call over by asyncio.run_coroutine_threadsafe"
            )
        return self._awaited

    def _prepared(self, request: Request) -> Request:
        """Return `request` with an id, if its result will be read."""
        request = _with_id(request)
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
        return request

    async def _send(self, request: Request, key: bytes | None, until: float) -> None:
        value = request_bytes(request)
        headers = self._headers.of(request.id, time.time())
        await self._produce(request.task, value, key, headers, until, request.id)

    async def _produce(
        self,
        task: str,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes]] | None,
        until: float,
        request_id: str = "",
    ) -> str:
        """Produce to the request topic of `task`, again while a broker is away; return the record's position."""
        results = self._results()
        if results.failure is not None:
            raise results.failure
        topic = self._topics.requests(task)
        # Before aiokafka, which would ask for such a topic with every update, also for other requests.
        if not TOPIC_NAME.fullmatch(topic):
            raise RequestNotSent(
                f"there is no task {task!r}: no topic can be called {topic!r}; at most 249 letters, digits, dots, "
                "underscores and hyphens can"
            )
        what = f"request {request_id}" if request_id else "a message"
        began = time.monotonic()
        reason = "no broker answered, or none has the topic"
        try:
            async with asyncio.timeout(until - began):
                while True:
                    try:
                        sending = self._producer.send_and_wait(topic, value, key=key, headers=headers)
                        sent = await results.or_end(sending)
                        return f"{sent.topic}/{sent.partition}/{sent.offset}"
                    except KafkaError as error:
                        if not await results.or_end(is_passing_for(self._producer, topic, error)):
                            why = reason_of(error, self._kafka.max_message_bytes)
                            raise RequestNotSent(f"topic {topic} does not take {what}: {why}") from None
                        reason = str(error)
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            waited_s = time.monotonic() - began
            raise NoAnswer(
                f"{what} was not taken by topic {topic} within {waited_s:.1f} s: {reason}", request_id
            ) from None

    def _no_answer(self, request: Request, timeout_s: float) -> NoAnswer:
        topic = self._topics.results(request.task)
        seen = self._seen.get(request.task)
        last = "none came since the client was opened"
        if seen is not None:
            last = f"the latest of any request came {time.monotonic() - seen:.1f} s ago"
        return NoAnswer(
            f"no result for request {request.id} of task {request.task} on topic {topic} within {timeout_s:g} s; "
            f"{last}: does a worker consume {self._topics.requests(request.task)}? (inferstream doctor)",
            request.id,
        )

    async def _read(self, reader: TopicReader, awaited: AwaitedResults) -> None:
        tasks = {self._topics.results(task): task for task in self._tasks}
        try:
            async for record in reader.records():
                self._seen[tasks[record.topic]] = time.monotonic()
                try:
                    result = decode_result(record.value or b"")
                except msgspec.MsgspecError:
                    continue  # not a result, or a tombstone
                awaited.arrived(result)
        except Exception as error:  # noqa: BLE001 - raised for those that wait
            failure = ResultsNotReadable(f"results cannot be read any more: {error}")
            failure.__cause__ = error
            awaited.end(failure)


def _with_id(request: Request) -> Request:
    if not isinstance(request, Request):
        raise TypeError(f"a request is a streams.messages.Request, not a {type(request).__name__}")
    return request if request.id else msgspec.structs.replace(request, id=uuid.uuid4().hex)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
