"""Publishes results, dead letters and metrics events; each counts once the broker has acknowledged it."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from engines.run.outcomes import Outcomes
from engines.run.results import Result, failed_instead
from handlers.errors import InferenceError, InvalidRequest, ResultTooLarge
from handlers.logger import get_logger
from streams.delivery.port import DeliveryReport, ProducerRecord, Record
from streams.delivery.producer import BatchingProducer
from streams.kafka.cloudevents import EVENT_TYPE, RESULT_TYPE, BinaryHeaders
from streams.kafka.topics import Topics
from streams.messages import MetricsEvent, decode_result, encode, encode_result

log = get_logger(__name__)
T = TypeVar("T")

_RECORD_OVERHEAD_BYTES = 1024
"""The most that framing, and the headers and key of a result, add to a value."""

_CALLERS_BYTES = 256
"""The part of that for the caller's key and trace; an ordinary caller uses far less."""

_ALWAYS_TAKEN_BYTES = 16 * 1024
"""A sensibly configured broker takes every result of this size, whatever `max_message_bytes` is here."""

_MESSAGE_CHARS = 1000
"""How much is kept of an error message that is too large."""

_LEAST_VALUE_BYTES = 1024
"""How much is kept of the value of a dead letter that the broker finds too large whatever else is cut."""


class Reply(DeliveryReport, kw_only=True, eq=False):
    """Where the result of a request goes, and what its record repeats of the request's."""

    task: str
    key: bytes | None = None
    traceparent: str | None = None
    reply_to: str | None = None
    """The topic that the caller asked for, which `Publisher.allows`; None: that of the task."""

    @property
    def size(self) -> int:
        """The bytes that the caller's key and trace take of a record."""
        return len(self.key or b"") + len(self.traceparent or "")


class Publisher:
    """Publishes what the worker sends; returns once the broker has acknowledged it.

    Lives on the event loop of its producer. Where the broker refuses a record for its size, a smaller one takes its
    place, so every request still has one outcome. Only a broker that refuses everything leads to an error.
    """

    def __init__(
        self,
        producer: BatchingProducer,
        *,
        topics: Topics,
        outcomes: Outcomes,
        worker: str,
        group: str,
        max_message_bytes: int,
        reply_topics: Iterable[str] = (),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._producer = producer
        self._topics = topics
        self._outcomes = outcomes
        self._results_of = functools.cache(topics.results)
        self._worker = worker
        self._result_headers = BinaryHeaders(RESULT_TYPE, f"inferstream/{worker}")
        self._event_headers = BinaryHeaders(EVENT_TYPE, f"inferstream/{worker}")
        self._events = topics.events
        self._group = group
        self._max_value_bytes = max_message_bytes - _RECORD_OVERHEAD_BYTES
        self._surely_taken_bytes = min(_ALWAYS_TAKEN_BYTES, self._max_value_bytes)
        self._reply_topics = [re.compile(pattern) for pattern in reply_topics]
        self._wall_clock = wall_clock

    def allows(self, reply_to: str) -> bool:
        """Whether results may go to the topic `reply_to`."""
        return any(pattern.fullmatch(reply_to) for pattern in self._reply_topics)

    async def result(self, result: Result, reply: Reply) -> None:
        """Publish `result`, and then the metrics event about what was published.

        A result that is too large becomes a RESULT_TOO_LARGE failure. Where the caller's key (or trace) leaves no
        room, the result is sent without it: the caller, who matches results by id, still gets an answer.

        Raises:
            KafkaError: the broker refuses them; nothing may be acknowledged then.
        """
        own = self._results_of(reply.task)
        answered = result
        result, value = encode_result(result)
        if len(value) > self._max_value_bytes:
            result, value = self._too_large(result, len(value))
        try:
            published = await self._deliver(self._ever_smaller(reply.reply_to or own, result, value, reply))
        except KafkaError as error:
            if reply.reply_to is None:
                raise
            refusal = InvalidRequest(
                f"reply_to {reply.reply_to!r} takes no messages ({type(error).__name__}); "
                "create the topic or leave it out"
            )
            result = failed_instead(result, refusal)
            published = await self._deliver(self._ever_smaller(own, result, encode(result), reply))
        if published is not answered:
            self._outcomes.replaced(answered, published)
        await self.event(_outcome_event(published))

    def post(self, result: Result, reply: Reply) -> bool:
        """Send `result` and its metrics event side by side and return True; `reply.ended` is called then.

        If that ends with an error, call `republish`. Returns False, and sends nothing, for a result that may be too
        large for the broker: call `result` for it, as its event depends on what could be published.
        """
        answered = result
        result, value = encode_result(result)
        if len(value) + reply.size > self._surely_taken_bytes:
            return False
        record = self._record(self._results_of(reply.task), result, value, reply)
        self._producer.post((record, self._event_record(_outcome_event(result))), reply)
        if result is not answered:
            self._outcomes.replaced(answered, result)
        return True

    async def republish(self, reply: Reply) -> None:
        """Resend the rejected records of `post`. The event is resent only if the result had to change.

        Raises:
            KafkaError: the broker refuses them; nothing may be acknowledged then.
        """
        of_event = [record for record in reply.refused if record.topic == self._events]
        for record in reply.refused:
            if record.topic != self._events and record.value is not None:
                result = decode_result(record.value)
                attempts = self._ever_smaller(record.topic, result, record.value, reply)
                published = await self._deliver(attempts)
                if published is not result:
                    self._outcomes.replaced(result, published)
                    of_event = [self._event_record(_outcome_event(published))]
        if of_event:
            await self._producer.deliver(*of_event)

    async def dead_letter(self, origin: Record, *, task: str, stage: str, error: InferenceError) -> None:
        """Publish the original record with the reason in its headers, and a metrics event.

        Where the broker refuses its size, the value is cut to `max_message_bytes`. Where it refuses that too, the
        record has no key, no headers of its producer's and only the start of the value. The header
        `__dlq.errors.truncated` of a cut letter says how many bytes the value had.

        Raises:
            KafkaError: the broker refuses it; nothing may be acknowledged then.
        """
        await self._deliver(self._ever_smaller_letters(origin, task, stage, error))
        self._outcomes.dead_lettered(
            task=task,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            stage=stage,
            error=error,
        )
        event = MetricsEvent(
            kind="dead_letter",
            time=self._wall_clock(),
            worker=self._worker,
            id=f"{origin.topic}/{origin.partition}/{origin.offset}",
            task=task,
            success=False,
            error_code=error.code,
        )
        await self.event(event)

    async def event(self, event: MetricsEvent) -> None:
        """Publish one metrics event.

        Raises:
            KafkaError: the broker refuses it.
        """
        await self._producer.deliver(self._event_record(event))

    def _ever_smaller(
        self, topic: str, result: Result, value: bytes, reply: Reply
    ) -> Iterator[tuple[Result, ProducerRecord]]:
        """Yield `result` and its record, then smaller ones for a broker that refuses its size."""
        yield result, self._record(topic, result, value, reply)
        if reply.size > _CALLERS_BYTES:
            log.warning("result_without_key", id=result.id, topic=topic, bytes=reply.size)
            reply = Reply(task=reply.task)
            yield result, self._record(topic, result, value, reply)
        failed, value = self._too_large(result, len(value))
        yield failed, self._record(topic, failed, value, reply)

    def _ever_smaller_letters(
        self, origin: Record, task: str, stage: str, error: InferenceError
    ) -> Iterator[tuple[None, ProducerRecord]]:
        topic = self._topics.dead_letters(task)
        why = [
            ("__dlq.errors.topic", origin.topic.encode()),
            ("__dlq.errors.partition", str(origin.partition).encode()),
            ("__dlq.errors.offset", str(origin.offset).encode()),
            ("__dlq.errors.group", self._group.encode()),
            ("__dlq.errors.delivery.count", str(max(1, origin.crashes)).encode()),
            ("__dlq.errors.stage", stage.encode()),
            ("__dlq.errors.exception.class", error.code.encode()),
            ("__dlq.errors.message", error.message[:_MESSAGE_CHARS].encode("utf-8", "replace")),
        ]
        headers = [*origin.headers, *why]
        yield None, ProducerRecord(topic, origin.key, origin.value, headers)
        value = origin.value or b""
        truncated = ("__dlq.errors.truncated", str(len(value)).encode())
        beside_it = len(origin.key or b"") + sum(len(name.encode()) + len(text or b"") for name, text in headers)
        room = self._max_value_bytes - beside_it
        if 0 < room < len(value):
            yield None, ProducerRecord(topic, origin.key, value[:room], [*headers, truncated])
        yield None, ProducerRecord(topic, None, value[:_LEAST_VALUE_BYTES], [*why, truncated])

    async def _deliver(self, attempts: Iterable[tuple[T, ProducerRecord]]) -> T:
        """Deliver the first record that the broker does not refuse for its size; return what it carries."""
        refusal: MessageSizeTooLargeError | None = None
        for what, record in attempts:
            try:
                await self._producer.deliver(record)
                return what
            except MessageSizeTooLargeError as error:
                refusal = error
        raise refusal or ValueError("there is nothing to deliver")

    def _record(self, topic: str, result: Result, value: bytes, reply: Reply) -> ProducerRecord:
        headers = self._result_headers.of(result.id, result.timestamp, reply.traceparent)
        return ProducerRecord(topic, reply.key, value, headers)

    def _event_record(self, event: MetricsEvent) -> ProducerRecord:
        headers = self._event_headers.of(f"{event.worker}/{event.kind}/{event.id or event.time}", event.time)
        # Without a key: nobody needs the events of one request in order, and hashing one costs more than the rest.
        return ProducerRecord(self._events, None, encode(event), headers)

    def _too_large(self, result: Result, size: int) -> tuple[Result, bytes]:
        """Return the failure that replaces a result of `size` bytes, and its bytes."""
        # The caller's own metadata may be what is too large, so it is not echoed here.
        if result.error is not None:
            cut = msgspec.structs.replace(result.error, message=result.error.message[:_MESSAGE_CHARS])
            failed = msgspec.structs.replace(result, error=cut, metadata={})
        else:
            refusal = ResultTooLarge(
                f"the result has {size} bytes, kafka.max_message_bytes allows {self._max_value_bytes} for a value; "
                "ask for less (max_new_tokens, pages, timestamps), or raise it here and on the broker"
            )
            failed = failed_instead(result, refusal, metadata={})
        return failed, encode(failed)


def _outcome_event(result: Result) -> MetricsEvent:
    error = result.error
    return MetricsEvent(
        kind="request",
        time=result.timestamp,
        worker=result.worker,
        id=result.id,
        task=result.task,
        engine=result.engine,
        model_name=result.model_name,
        model_version=result.model_version or "",
        success=result.success,
        error_code=error.code if error else "",
        processing_time=result.processing_time,
        timings=result.timings,
        attempt=result.attempt,
    )
