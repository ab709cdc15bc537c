"""What travels on the topics and over HTTP: request, result and metrics event, with their JSON encoding."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import structlog

from engines.results import failure_result
from handlers.errors import InferenceError, InternalError, InvalidRequest, Undecodable

log = structlog.get_logger(__name__)

MAX_METADATA_DEPTH = 200
"""Levels that metadata may have: far fewer than what can be decoded, so that every result can repeat them."""

MAX_ID_CHARS = 256

# Bounded, because every failure repeats them, and must fit where the result that it stands for did not.
_Id = Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)]
_Name = Annotated[str, msgspec.Meta(max_length=512)]


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """One inference request; immutable. `id` is empty until the transport that carried it gave it one."""

    task: _Name
    engine: _Name
    model_name: _Name
    data: dict[str, Any]
    options: dict[str, Any] = {}
    id: _Id = ""
    deadline: str | float | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5
    reply_to: _Name | None = None
    metadata: dict[str, Any] = {}

    def deadline_at(self) -> float | None:
        """Return the deadline as seconds since the epoch, or None where there is none.

        Raises:
            InvalidRequest: permanent; a text that is no RFC 3339 time with an offset.
        """
        if not isinstance(self.deadline, str):
            return self.deadline
        try:
            moment = datetime.fromisoformat(self.deadline)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise InvalidRequest(
                f"deadline {self.deadline!r} is no RFC 3339 time; write 2030-01-31T12:00:00Z or seconds since the epoch"
            )
        return moment.timestamp()


class ResultError(msgspec.Struct, frozen=True):
    """Why a request failed: a code of `handlers.errors`, a sentence, and whether trying again can help."""

    code: str
    message: str
    retryable: bool


class Result(msgspec.Struct, kw_only=True, frozen=True):
    """One answer, success or failure; exactly one of `result` and `error` is set. Times are in seconds."""

    success: bool
    id: str
    task: str
    engine: str
    model_name: str
    processing_time: float
    timestamp: float
    result: dict[str, Any] | None = None
    error: ResultError | None = None
    model_version: str | None = None
    metadata: dict[str, Any] = {}
    timings: dict[str, float] = {}
    attempt: int = 1
    worker: str = ""


EventKind = Literal[
    "request",
    "dead_letter",
    "model_loaded",
    "model_evicted",
    "model_swapped",
    "model_swap_failed",
    "model_pull",
    "worker_started",
    "worker_stopped",
]


class MetricsEvent(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One thing an operator counts or charts: a request's outcome, a model coming or going, a worker's life."""

    kind: EventKind
    time: float
    worker: str
    id: str = ""
    task: str = ""
    engine: str = ""
    model_name: str = ""
    model_version: str = ""
    success: bool | None = None
    error_code: str = ""
    processing_time: float | None = None
    timings: dict[str, float] = {}
    attempt: int = 1
    details: dict[str, Any] = {}


_request_decoder = msgspec.json.Decoder(Request)
_result_decoder = msgspec.json.Decoder(Result)
_event_decoder = msgspec.json.Decoder(MetricsEvent)
_encoder = msgspec.json.Encoder()

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_REPEATED: dict[str, msgspec.json.Decoder[Any]] = {
    "id": msgspec.json.Decoder(_Id),
    **dict.fromkeys(("task", "engine", "model_name", "reply_to"), msgspec.json.Decoder(_Name)),
    "metadata": msgspec.json.Decoder(dict[str, Any]),
}
"""What a failure repeats of its request, or needs to find its caller."""
_OPTIONAL = frozenset({"options", "id", "deadline", "priority", "reply_to", "metadata"})
_NOT_READABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(message: msgspec.Struct | dict[str, Any]) -> bytes:
    """Return the message as UTF-8 JSON.

    Raises:
        TypeError: a value in it has no JSON form.
        ValueError, RecursionError: a text that is no Unicode, an integer or a depth beyond all bounds.
    """
    return _encoder.encode(message)


def encode_result(result: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return a result and its bytes; one that has no JSON form becomes a failure that says so."""
    try:
        return result, _encoder.encode(result)
    except Exception as error:  # a handler may return anything
        log.error("result_not_encodable", id=result["id"], task=result["task"], exc_info=error)
    failed = failed_instead(
        result,
        InternalError(
            f"the handler of task {result['task']} returned a result that has no JSON form; "
            "it is logged by the worker"
        ),
    )
    return failed, _encoder.encode(failed)


def failed_instead(result: dict[str, Any], error: InferenceError) -> dict[str, Any]:
    """Return the failure that takes the place of `result` where that cannot be told."""
    kept = ("id", "task", "engine", "model_name", "model_version", "timings", "metadata", "attempt", "worker")
    return failure_result(
        error=error, processing_s=result["processing_time"], **{name: result[name] for name in kept}
    )


def decode_request(value: bytes) -> Request:
    """Return the request that `value` holds; null in an optional field counts as not given.

    Raises:
        Undecodable: permanent; no JSON object, so that not even an id can be read from it.
        InvalidRequest: permanent; a JSON object with missing, unknown or wrong fields.
    """
    try:
        request = _request_decoder.decode(value)
    except _NOT_READABLE:
        request = _decode_with_nulls(value)
    # Every level takes two bytes, so short messages need no look.
    if len(value) > 2 * MAX_METADATA_DEPTH and _is_too_deep(request.metadata):
        raise InvalidRequest(
            f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels, and a result could not repeat it; "
            "make it flatter, or a string"
        )
    request.deadline_at()
    return request


def _decode_with_nulls(value: bytes) -> Request:
    """Return the request in `value` that did not decode as it is, or say why there is none."""
    fields = _fields_of(value)
    given = {name: raw for name, raw in fields.items() if name not in _OPTIONAL or bytes(raw) != b"null"}
    try:
        return _request_decoder.decode(_encoder.encode(given))
    except _NOT_READABLE as error:
        raise InvalidRequest(
            f"the request is not valid: {error}; its fields are {', '.join(Request.__struct_fields__)}"
        ) from None


def _fields_of(value: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of a JSON object, each still to be decoded.

    Raises:
        Undecodable: permanent; no JSON object.
    """
    try:
        return _fields_decoder.decode(value)
    except RecursionError:
        raise Undecodable(
            f"the message ({len(value)} bytes) is nested too deeply to be read; make it flatter"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(
            f"the message ({len(value)} bytes, starting {value[:24]!r}) is no JSON object: {error}; "
            "send a UTF-8 JSON object with task, engine, model_name and data"
        ) from None


def known_fields(value: bytes) -> dict[str, Any]:
    """Return what can be read of a request that is not valid: the fields a failure result repeats to its caller.

    Each field is read by itself, so that none is lost because of another.
    """
    try:
        fields = _fields_of(value)
    except Undecodable:
        return {}
    known: dict[str, Any] = {}
    for name, decoder in _REPEATED.items():
        with contextlib.suppress(*_NOT_READABLE, KeyError):
            known[name] = decoder.decode(fields[name])
    if _is_too_deep(known.get("metadata")):
        del known["metadata"]
    return known


def _is_too_deep(metadata: Any) -> bool:
    level = [metadata]
    for _ in range(MAX_METADATA_DEPTH + 1):
        containers = [one for one in level if isinstance(one, dict | list)]
        if not containers:
            return False
        level = [part for one in containers for part in (one.values() if isinstance(one, dict) else one)]
    return True


def decode_result(value: bytes) -> Result:
    """Return the result that a worker published.

    Raises:
        msgspec.MsgspecError: the bytes are no result.
    """
    return _result_decoder.decode(value)


def decode_event(value: bytes) -> MetricsEvent:
    """Return the metrics event that a worker published.

    Raises:
        msgspec.MsgspecError: the bytes are no metrics event.
    """
    return _event_decoder.decode(value)
