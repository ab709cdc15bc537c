"""The errors of an `InferenceClient`; it raises none of the Kafka library's own.

Opening a client also raises two kinds of `ClientError` that others raise as well:
`streams.kafka.connection.BrokerUnavailable`, and `streams.kafka.topics.TopicsNotReady` where a result topic is missing;
and `engines.configuration.ConfigurationError` where a certificate file of the settings cannot be used. Arguments of a
wrong type or range raise TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from handlers.errors import counted


def reason_of(error: KafkaError, max_message_bytes: int) -> str:
    """Say why a topic does not take a message."""
    if isinstance(error, MessageSizeTooLargeError):
        return (
            f"it is larger than kafka.max_message_bytes={max_message_bytes}, or than the topic allows; put a large "
            "file on S3 and send its s3:// address, or raise the setting and the topic's max.message.bytes"
        )
    return str(error)


class ClientError(Exception):
    """Base of the client's errors; `retryable` says whether the same call may succeed later."""

    retryable: ClassVar[bool] = False


class TaskNotOpened(ClientError, ValueError):
    """Raised for a request of a task that the client was not opened for: it would never see the result."""


class OtherLoop(ClientError, RuntimeError):
    """Raised where a client is used on another event loop than the one that opened it."""


class RequestNotSent(ClientError):
    """Raised where the broker refuses a request (too large, no right, no topic), and for one that is not JSON."""


class NoAnswer(ClientError, TimeoutError):
    """Raised when the time of a call is over; the request may still be answered later."""

    retryable = True

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class RequestsUnanswered(ClientError):
    """Raised at the end of `infer_many`; `errors` says by id why a request has no result."""

    def __init__(self, errors: Sequence[tuple[str, ClientError]], sent: int) -> None:
        shown = "; ".join(str(error) for _, error in errors[:3])
        super().__init__(f"no result for {len(errors)} of {counted(sent, 'request')}: {shown}")
        self.errors = dict(errors)


class ResultsNotReadable(ClientError):
    """Raised where the broker refuses to let the client read results."""


class ClientClosed(ClientError):
    """Raised by calls on a client that is not open, and by waiting calls when it is closed."""
