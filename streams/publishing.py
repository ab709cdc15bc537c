"""Publishes results, dead letters and metrics events, each acknowledged by the broker before it counts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from engines.results import failure_result
from handlers.errors import InferenceError, InvalidRequest, ResultTooLarge
from streams.cloudevents import EVENT_TYPE, RESULT_TYPE, BinaryHeaders
from streams.messages import MetricsEvent, encode, encode_result
from streams.outbox import OnDelivered, Outgoing
from streams.topics import Topics

log = structlog.get_logger(__name__)

_RECORD_OVERHEAD_BYTES = 1024
"""What headers, key and framing may add to a value."""


class Out(Protocol):
    """The part of the outbox that is used here."""

    async def deliver(self, *records: Outgoing) -> None: ...

    def post(self, records: Sequence[Outgoing], on_delivered: OnDelivered) -> None: ...


class Origin(Protocol):
    """The message that a result or dead letter answers."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...


class Publisher:
    """Sends what the worker has to say; returns once the broker has acknowledged it.

    Lives on the event loop of its producer. A result the broker would refuse for its size is replaced by a
    RESULT_TOO_LARGE failure, so every request still gets one answer.
    """

    def __init__(
        self,
        outbox: Out,
        *,
        topics: Topics,
        worker: str,
        group: str,
        max_message_bytes: int,
        reply_topics: Iterable[str] = (),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._topics = topics
        self._worker = worker
        self._result_headers = BinaryHeaders(RESULT_TYPE, f"inferstream/{worker}")
        self._event_headers = BinaryHeaders(EVENT_TYPE, f"inferstream/{worker}")
        self._events = topics.events
        self._group = group
        self._max_value_bytes = max_message_bytes - _RECORD_OVERHEAD_BYTES
        self._reply_topics = [re.compile(pattern) for pattern in reply_topics]
        self._wall_clock = wall_clock

    def allows(self, reply_to: str) -> bool:
        """Whether results may go to the topic `reply_to`."""
        return any(pattern.fullmatch(reply_to) for pattern in self._reply_topics)

    async def result(
        self,
        result: dict[str, Any],
        *,
        task: str,
        key: bytes | None,
        traceparent: str | None,
        reply_to: str | None,
    ) -> None:
        """Publish `result` and its metrics event side by side.

        Raises:
            KafkaError: the broker does not take them; nothing may be acknowledged then.
        """
        topic = reply_to or self._topics.results(task)
        result, value = self._encoded(result)
        try:
            await self._outbox.deliver(*self._records(topic, result, value, key, traceparent))
            return
        except MessageSizeTooLargeError:
            result, value = self._too_large(result, len(value))
        except KafkaError as error:
            if reply_to is None:
                raise
            refusal = InvalidRequest(
                f"reply_to {reply_to!r} takes no messages ({type(error).__name__}); create the topic or leave it out"
            )
            result = _failed_instead(result, refusal)
            value = encode(result)
        await self._outbox.deliver(
            *self._records(self._topics.results(task), result, value, key, traceparent)
        )

    def post(
        self,
        result: dict[str, Any],
        *,
        task: str,
        key: bytes | None,
        traceparent: str | None,
        on_published: OnDelivered,
    ) -> None:
        """Publish `result` and its metrics event, and tell `on_published`; it must not raise.

        Where that ends with an error, `result` may find a way that ends without.
        """
        result, value = self._encoded(result)
        records = self._records(self._topics.results(task), result, value, key, traceparent)
        self._outbox.post(records, on_published)

    async def dead_letter(self, origin: Origin, *, task: str, stage: str, error: InferenceError) -> None:
        """Publish the original record, untouched, with why nothing could be done with it, and a metrics event.

        Source: header names of Kafka Connect's and KIP-1191's dead letter queues.

        Raises:
            KafkaError: the broker does not take it; nothing may be acknowledged then.
        """
        headers = [
            *origin.headers,
            ("__dlq.errors.topic", origin.topic.encode()),
            ("__dlq.errors.partition", str(origin.partition).encode()),
            ("__dlq.errors.offset", str(origin.offset).encode()),
            ("__dlq.errors.group", self._group.encode()),
            ("__dlq.errors.delivery.count", b"1"),
            ("__dlq.errors.stage", stage.encode()),
            ("__dlq.errors.exception.class", error.code.encode()),
            ("__dlq.errors.message", error.message.encode()),
        ]
        event = MetricsEvent(
            kind="dead_letter",
            time=self._wall_clock(),
            worker=self._worker,
            id=f"{origin.topic}/{origin.partition}/{origin.offset}",
            task=task,
            success=False,
            error_code=error.code,
        )
        await self._outbox.deliver(
            Outgoing(self._topics.dead_letters(task), origin.key, origin.value, headers),
            self._event_record(event),
        )

    async def event(self, event: MetricsEvent) -> None:
        """Publish one metrics event.

        Raises:
            KafkaError: the broker does not take it.
        """
        await self._outbox.deliver(self._event_record(event))

    def _encoded(self, result: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return a result that the broker should take, and its bytes: this one, or a failure in its place."""
        result, value = encode_result(result)
        if len(value) > self._max_value_bytes:
            return self._too_large(result, len(value))
        return result, value

    def _records(
        self, topic: str, result: dict[str, Any], value: bytes, key: bytes | None, traceparent: str | None
    ) -> tuple[Outgoing, Outgoing]:
        """Return the records of a result and of the event that tells of it."""
        headers = self._result_headers.of(result["id"], result["timestamp"], traceparent)
        return Outgoing(topic, key, value, headers), self._event_record(_outcome_event(result))

    def _event_record(self, event: MetricsEvent) -> Outgoing:
        headers = self._event_headers.of(f"{event.worker}/{event.kind}/{event.id or event.time}", event.time)
        # Without a key: nobody needs the events of one request in order, and hashing one costs more than the rest.
        return Outgoing(self._events, None, encode(event), headers)

    def _too_large(self, result: dict[str, Any], size: int) -> tuple[dict[str, Any], bytes]:
        refusal = ResultTooLarge(
            f"the result has {size} bytes, kafka.max_message_bytes allows {self._max_value_bytes} for a value; "
            "ask for less (max_new_tokens, pages, timestamps), or raise it here and on the broker"
        )
        # The caller's own metadata may be what is too large, so it is not echoed here.
        failed = _failed_instead(result | {"metadata": {}}, refusal)
        return failed, encode(failed)


def _failed_instead(result: dict[str, Any], error: InferenceError) -> dict[str, Any]:
    kept = ("id", "task", "engine", "model_name", "model_version", "timings", "metadata", "attempt", "worker")
    return failure_result(
        error=error, processing_s=result["processing_time"], **{name: result[name] for name in kept}
    )


def _outcome_event(result: dict[str, Any]) -> MetricsEvent:
    error = result.get("error")
    return MetricsEvent(
        kind="request",
        time=result["timestamp"],
        worker=result["worker"],
        id=result["id"],
        task=result["task"],
        engine=result["engine"],
        model_name=result["model_name"],
        model_version=result.get("model_version") or "",
        success=result["success"],
        error_code=error["code"] if error else "",
        processing_time=result["processing_time"],
        timings=result["timings"],
        attempt=result["attempt"],
    )
