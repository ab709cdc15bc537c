"""Takes messages from the agents and sees each through to one published outcome and its ack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from engines.results import failure_result
from handlers.errors import InferenceError, InvalidRequest, Undecodable
from streams import cloudevents
from streams.acks import OrderedAcker, Received, Record
from streams.messages import Request, decode_request, known_fields
from streams.pipeline import Pipeline
from streams.publishing import Publisher

log = structlog.get_logger(__name__)


class Intake:
    """Every message taken ends in exactly one result or dead letter, and only then in its ack.

    Lives on the event loop. At most `max_in_flight` messages are taken and not yet acked: that bounds memory,
    what is answered twice after a crash, and how far work runs ahead of a slow message. A failure to publish
    calls `on_fatal` and leaves the message unacked: the worker must exit so that the broker delivers it again.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        publisher: Publisher,
        acker: OrderedAcker,
        is_current: Callable[[int], bool],
        max_in_flight: int,
        worker: str,
        on_fatal: Callable[[BaseException], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_current` tells whether messages of a generation are still this worker's to answer."""
        self._pipeline = pipeline
        self._publisher = publisher
        self._acker = acker
        self._is_current = is_current
        self._max_in_flight = max_in_flight
        self._worker = worker
        self._on_fatal = on_fatal
        self._wall_clock = wall_clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, messages: Sequence[Received], task: str) -> None:
        """Start work on messages of `task`'s request topic, in order; waits while too many are in flight.

        Messages that were handed out again meanwhile are left to whoever got them.
        """
        loop = asyncio.get_running_loop()
        for message in messages:
            while self._acker.in_flight >= self._max_in_flight:
                await self._acker.progress()
            if not self._is_current(message.generation):
                return
            self._acker.track(message)
            work = loop.create_task(self._see_through(message, task))
            self._tasks.add(work)
            work.add_done_callback(self._tasks.discard)

    @property
    def in_flight(self) -> int:
        """How many messages are taken and not yet acked."""
        return self._acker.in_flight

    async def close(self) -> None:
        """Abandon what is in flight, unacked: the broker will deliver it again."""
        for work in self._tasks:
            work.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _see_through(self, message: Received, task: str) -> None:
        record = message.record
        try:
            await self._answer(record, task)
        except Exception as error:
            log.critical("outcome_not_published", topic=record.topic, offset=record.offset, exc_info=error)
            self._on_fatal(error)
        else:
            self._acker.done(message)

    async def _answer(self, record: Record, task: str) -> None:
        try:
            incoming = cloudevents.receive(record.value, record.headers)
            try:
                request = decode_request(incoming.value)
                if not request.id:
                    request = msgspec.structs.replace(request, id=_id_of(record, incoming))
                self._check(request, task)
            except Undecodable:
                raise
            except InferenceError as error:
                result, reply_to = self._refuse(incoming.value, _id_of(record, incoming), task, error)
            else:
                queue_s = max(0.0, self._wall_clock() - record.timestamp / 1000)
                result, reply_to = await self._pipeline.answer(request, queue_s=queue_s), request.reply_to
        except Undecodable as error:
            await self._publisher.dead_letter(record, task=task, stage="decode", error=error)
            return
        await self._publisher.result(
            result, task=task, key=record.key, traceparent=incoming.traceparent, reply_to=reply_to
        )

    def _check(self, request: Request, task: str) -> None:
        if request.task != task:
            raise InvalidRequest(
                f"task {request.task!r} does not belong on this topic; send it to the topic of its task, "
                f"or set task to {task!r}"
            )
        if request.reply_to is not None and not self._publisher.allows(request.reply_to):
            raise InvalidRequest(
                f"reply_to {request.reply_to!r} matches none of worker.reply_topics; "
                "leave it out, or have the operator allow the topic"
            )

    def _refuse(
        self, value: bytes, request_id: str, task: str, error: InferenceError
    ) -> tuple[dict[str, Any], str | None]:
        """Return the failure result for a request that is not valid, and the topic it goes to."""
        known = known_fields(value)
        reply_to = known.get("reply_to")
        result = failure_result(
            error=error,
            id=known.get("id") or request_id,
            task=known.get("task") or task,
            engine=known.get("engine", ""),
            model_name=known.get("model_name", ""),
            processing_s=0.0,
            metadata=known.get("metadata", {}),
            worker=self._worker,
        )
        return result, reply_to if reply_to is not None and self._publisher.allows(reply_to) else None


def _id_of(record: Record, incoming: cloudevents.Incoming) -> str:
    """Return the id of a request that carries none: its event's, or one that is the same at a redelivery."""
    return incoming.event_id or f"{record.topic}/{record.partition}/{record.offset}"
