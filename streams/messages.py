"""The messages on the topics and over HTTP, with their JSON encoding: request, result and metrics event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from engines.deadlines import Deadline
from engines.run.json_form import first_wrong, plain
from engines.run.results import Result as Result
from engines.run.results import failed_instead
from handlers.errors import InferenceError, InternalError, is_out_of_memory, out_of_memory
from handlers.logger import get_logger

log = get_logger(__name__)

MAX_ID_CHARS = 256

# Bounded: every failure repeats them, and must fit where the result that it replaces did not.
Id = Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)]
Name = Annotated[str, msgspec.Meta(max_length=512)]


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """One inference request; immutable. `id` is empty until its transport sets one."""

    task: Name
    engine: Name = ""
    """Empty where the model's tags name it."""
    model_name: Name
    data: dict[str, Any]
    options: dict[str, Any] = {}
    id: Id = ""
    deadline: Deadline = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5
    reply_to: Name | None = None
    metadata: dict[str, Any] = {}


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


class MetricsEvent(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """An event to count or chart: a request's outcome, a model loaded or evicted, a worker started or stopped."""

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


encode: Callable[[msgspec.Struct | dict[str, Any]], bytes] = msgspec.json.Encoder(enc_hook=plain).encode
"""Return the message as UTF-8 JSON.

Raises:
    TypeError: a value in it has no JSON form.
    ValueError, RecursionError: a text that is not Unicode, an integer or a depth beyond all bounds.
"""

decode_result: Callable[[bytes], Result] = msgspec.json.Decoder(Result).decode
"""Return the result that a worker published; raises msgspec.MsgspecError where the bytes are not one."""

decode_event: Callable[[bytes], MetricsEvent] = msgspec.json.Decoder(MetricsEvent).decode
"""Return the metrics event that a worker published; raises msgspec.MsgspecError where the bytes are not one."""


def encode_result(result: Result) -> tuple[Result, bytes]:
    """Return a result and its bytes; one that has no JSON form becomes a failed result."""
    try:
        return result, encode(result)
    except Exception as raised:  # a handler may return anything
        log.error("result_not_encodable", id=result.id, task=result.task, exc_info=raised)
        error: InferenceError = InternalError(
            f"the handler of task {result.task} returned a result that has no JSON form: "
            f"{first_wrong(result.result, 'result', is_number=False) or 'it is logged by the worker'}"
        )
        if is_out_of_memory(raised):
            error = out_of_memory("as it wrote the result", "ask for less")
        failed = failed_instead(result, error)
        return failed, encode(failed)
