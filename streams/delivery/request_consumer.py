"""Takes fetched records and drives each to one published outcome and its ack."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from engines.log_context import shared_task
from engines.run.job import Alike
from engines.run.outcomes import Outcomes
from engines.run.results import refused_result
from handlers.errors import (
    InferenceError,
    InvalidRequest,
    Undecodable,
    WorkerCrashed,
    as_inference_error,
    counted,
)
from handlers.logger import get_logger
from streams.delivery.backlog import Backlog
from streams.delivery.crash_guard import CrashGuard
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, PositionLost, Record
from streams.delivery.publisher import Publisher, Reply
from streams.delivery.under_way import NOT_STARTED, PUBLISHING, UnderWay
from streams.faults import supervised
from streams.kafka import cloudevents
from streams.messages import MAX_ID_CHARS, Request, Result
from streams.pipeline.decoding import decode_request, known_fields
from streams.pipeline.fast_lane import FastLane

log = get_logger(__name__)


class RequestConsumer:
    """Ends every record in exactly one result or dead letter, and acks it only then.

    Lives on the event loop. Records for which the tracker has no room wait in a queue for each partition, so a
    partition that is stuck delays no other. A failure to publish calls `on_fatal` and leaves the record unacked: the
    worker must exit so that the broker delivers it again.
    """

    def __init__(
        self,
        *,
        answering: FastLane,
        publisher: Publisher,
        tracker: OffsetTracker,
        guard: CrashGuard,
        is_current: Callable[[int], bool],
        outcomes: Outcomes,
        worker: str,
        on_fatal: Callable[[BaseException], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_current` tells whether a generation still has its partitions."""
        self._answering = answering
        self.publisher = publisher
        self.tracker = tracker
        self._outcomes = outcomes
        self._worker = worker
        self._on_fatal = on_fatal
        self._wall_clock = wall_clock
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way = UnderWay(tracker)
        self._is_leaving = False
        self._has_failed = False
        self._backlog = Backlog(
            tracker, guard, is_current=is_current, enter=self.under_way.enter, start=self._start, on_fatal=on_fatal
        )

    def take(self, fetched: Sequence[Fetched], task: str) -> None:
        """Start work on records of `task`'s request topic, in order, as far as there is room; queue the rest.

        Missing records before them are fatal.
        """
        alike: Alike = {}
        try:
            for one in fetched:
                self._backlog.enter(one, task, alike)
        except PositionLost as error:
            self._on_fatal(error)

    def leave(self) -> None:
        """Start on no further record, and give back what no engine has begun with: this worker cannot run it."""
        self._is_leaving = True
        self.under_way.give_back()

    async def close(self) -> None:
        """Abandon what is in flight, unacked: the broker will deliver it again."""
        await self._backlog.close()
        await self._answering.close()
        for work in self._tasks:
            work.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, message: Record, task: str, alike: Alike) -> None:
        if self._is_leaving:
            self.under_way.add(message, NOT_STARTED)
            return
        if self.tracker.is_answered(message):
            # Not at once: a waiter for progress, such as the backlog that calls this, would miss it.
            asyncio.get_running_loop().call_soon(self.tracker.done, message)
            return
        if self.under_way.goes_on(message):
            return
        if message.crashes:
            self.see_through(message, task, functools.partial(self._give_up, message, task))
            return
        try:
            incoming, request = self._read(message, task)
            sent_ms = message.timestamp  # -1 where it is not known
            queue_s = max(0.0, self._wall_clock() - sent_ms / 1000) if sent_ms > 0 else 0.0
            traceparent = incoming.traceparent
            posting = _Posting(
                request_consumer=self,
                message=message,
                task=task,
                key=message.key,
                traceparent=traceparent,
                reply_to=request.reply_to,
            )
            run = self._answering.start(request, posting.post, queue_s=queue_s, traceparent=traceparent, alike=alike)
            if not posting.is_answered:
                self.under_way.add(message, run)
        except InferenceError as error:
            self.see_through(message, task, functools.partial(self._refuse, message, task, error))
        except BaseException as error:  # noqa: BLE001 - logged, and the message is kept
            put_aside = functools.partial(self._put_aside, message, task, "request_consumer", error)
            self.see_through(message, task, put_aside)

    def see_through(self, message: Record, task: str, work: Callable[[], Awaitable[None]]) -> None:
        """Await the work, which ends with a published outcome, then ack the record."""

        async def see_through() -> None:
            try:
                try:
                    await work()
                except Exception as error:
                    if isinstance(error, KafkaError) and not isinstance(error, MessageSizeTooLargeError):
                        raise  # the broker would refuse a dead letter as well
                    await self._put_aside(message, task, "outcome", error)
            except Exception as error:
                if not self._has_failed:  # every other record in flight ends in the same way
                    self._has_failed = True
                    log.critical(
                        "outcome_not_published",
                        topic=message.topic,
                        partition=message.partition,
                        offset=message.offset,
                        in_flight=self.tracker.in_flight,
                        exc_info=error,
                    )
                self._on_fatal(error)
            else:
                self.under_way.end(message)

        self.under_way.add(message, PUBLISHING)
        running = supervised(shared_task(see_through(), name="see through"))
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    async def _put_aside(self, message: Record, task: str, stage: str, error: BaseException) -> None:
        """Dead-letter a record that can be neither answered nor refused."""
        log.error("message_put_aside", topic=message.topic, offset=message.offset, stage=stage, exc_info=error)
        await self.publisher.dead_letter(message, task=task, stage=stage, error=as_inference_error(error))

    def _read(self, message: Record, task: str) -> tuple[cloudevents.Incoming, Request]:
        """Decode the request.

        Raises:
            Undecodable: permanent; it has no id, so no caller can be told.
            InvalidRequest: permanent.
        """
        incoming = cloudevents.receive(message.value, message.headers)
        request = decode_request(incoming.value)
        if not request.id:
            request = msgspec.structs.replace(request, id=_id_of(message, incoming))
        if request.task != task:
            raise InvalidRequest(
                f"task {request.task!r} does not belong on this topic; send it to the topic of its task, "
                f"or set task to {task!r}"
            )
        if request.reply_to is not None and not self.publisher.allows(request.reply_to):
            raise InvalidRequest(
                f"reply_to {request.reply_to!r} matches none of worker.reply_topics; "
                "leave it out, or have the operator allow the topic"
            )
        return incoming, request

    async def _give_up(self, message: Record, task: str) -> None:
        """Fail and dead-letter a request that crashes workers."""
        error = WorkerCrashed(
            f"{counted(message.crashes, 'worker')} in a row ended without a word, or gave no sign of life until the "
            "group removed them, while they ran this request and no other of Kafka: it crashes native code, takes "
            "more memory than there is, or hangs where nothing can interrupt it; look at the last lines and the exit "
            "status of those workers, and send it again when the cause is gone"
        )
        log.error(
            "request_crashes_workers",
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            crashes=message.crashes,
        )
        await self._refuse(message, task, error)
        await self.publisher.dead_letter(message, task=task, stage="crash", error=error)

    async def _refuse(self, message: Record, task: str, error: InferenceError) -> None:
        """Send a failed result for an invalid request; dead-letter the record where that is not possible."""
        if isinstance(error, Undecodable):
            await self.publisher.dead_letter(message, task=task, stage="decode", error=error)
            return
        incoming = cloudevents.receive(message.value, message.headers)
        known = known_fields(incoming.value)
        reply_to = known.get("reply_to")
        result = refused_result(error, known=known, id=_id_of(message, incoming), task=task, worker=self._worker)
        self._outcomes.refused(result)
        if reply_to is not None and not self.publisher.allows(reply_to):
            reply_to = None
        reply = Reply(task=task, key=message.key, traceparent=incoming.traceparent, reply_to=reply_to)
        await self.publisher.result(result, reply)


class _Posting(Reply, kw_only=True, eq=False):
    """A result on its way to the broker, and the record that is acked when it is there."""

    request_consumer: RequestConsumer
    message: Record
    is_answered: bool = False

    def post(self, result: Result) -> None:
        """Publish the result. Only its bytes are kept meanwhile: a dict would fill the caches of the processor."""
        consumer, publisher = self.request_consumer, self.request_consumer.publisher
        self.is_answered = True
        consumer.under_way.add(self.message, PUBLISHING)
        try:
            is_posted = self.reply_to is None and publisher.post(result, self)
        except BaseException:  # noqa: BLE001 - what it is comes up again, where it is handled
            is_posted = False
        if not is_posted:
            consumer.see_through(self.message, self.task, functools.partial(publisher.result, result, self))

    def ended(self, error: Exception | None) -> None:
        consumer = self.request_consumer
        if error is None:
            consumer.under_way.end(self.message)
        else:
            republish = functools.partial(consumer.publisher.republish, self)
            consumer.see_through(self.message, self.task, republish)


def _id_of(message: Record, incoming: cloudevents.Incoming) -> str:
    """Return the id of a request that has none: that of its event, or one that a redelivery gets as well."""
    if incoming.event_id and len(incoming.event_id) <= MAX_ID_CHARS:
        return incoming.event_id
    return f"{message.topic}/{message.partition}/{message.offset}"
