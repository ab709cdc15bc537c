"""Responses: all are JSON, and a failure is an ordinary result with `success` false.

A success is 200. A failure has the status of its error's code, below. What HTTP itself refuses has the code
INVALID_REQUEST and its own status: 404 no such path, 405 not this method (with Allow), 408 a body that does not
arrive in time, 413 a body above http.max_body_bytes. So 404 on /inference/infer always means the model.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from engines.run.results import ResultError, refused_result
from handlers.errors import InferenceError, InvalidRequest
from handlers.logger import get_logger
from streams.messages import Result, encode

log = get_logger(__name__)

WRITE_TIMEOUT_S = 60.0
"""How long a caller may leave sent bytes unread before the connection is closed."""

_CODES = {
    400: (
        *("INVALID_REQUEST", "INVALID_INPUT", "INVALID_OPTION", "UNDECODABLE"),
        *("UNKNOWN_TASK", "UNKNOWN_ENGINE", "MODEL_MISMATCH"),
        # The address is part of the request, so an error in it is an error of the request.
        *("MEDIA_NOT_FOUND", "MEDIA_FORBIDDEN", "MEDIA_CORRUPT"),
    ),
    404: ("UNKNOWN_MODEL",),
    413: ("MEDIA_TOO_LARGE", "RESULT_TOO_LARGE"),
    429: ("BUSY",),
    500: ("MODEL_LOAD_FAILED", "INFERENCE_FAILED", "WORKER_CRASHED", "INTERNAL_ERROR"),
    503: (
        *("MEDIA_UNAVAILABLE", "REGISTRY_UNAVAILABLE", "ENGINE_UNAVAILABLE"),
        *("OUT_OF_MEMORY", "INFERENCE_TIMEOUT"),
        # A caller who cancelled has closed the connection; only a worker that stops sends this.
        "CANCELLED",
    ),
    504: ("DEADLINE_EXCEEDED",),
}

STATUS = {code: status for status, codes in _CODES.items() for code in codes}
"""The status of each code of `handlers.errors`."""

RETRY_AFTER_S = {429: 1, 503: 5}
"""The seconds in the header Retry-After, by the statuses where trying again can help."""


class Refusal(InvalidRequest):
    """Raised when HTTP itself refuses a request: `status` is its own, the code that of an invalid request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: InferenceError | ResultError) -> int:
    """Return the status of a failure; 500 for an unknown code."""
    return error.status if isinstance(error, Refusal) else STATUS.get(error.code, 500)


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `value` as JSON; bytes are JSON already."""
    wait = {"Retry-After": str(RETRY_AFTER_S[status])} if status in RETRY_AFTER_S else {}
    return web.Response(
        body=value if isinstance(value, bytes) else encode(value),
        status=status,
        headers=wait | dict(headers or {}),
        content_type="application/json",
    )


def result_response(result: Result, body: bytes) -> web.Response:
    """Return the response of an answered request: `body` is its encoded result, the status follows from its outcome."""
    return json_response(body, status=200 if result.error is None else status_of(result.error))


def refused(
    error: InferenceError, *, worker: str, known: Mapping[str, Any] | None = None, queue_s: float = 0.0
) -> Result:
    """Return the result of a request that was not taken; `known` are its readable fields."""
    return refused_result(error, known=known or {}, id=uuid.uuid4().hex, worker=worker, queue_s=queue_s)


@asynccontextmanager
async def writing_to(http: web.Request) -> AsyncIterator[None]:
    """Bound the time of a write in the body.

    Raises:
        ConnectionError: the caller is gone, or did not read in time and was cut off.
    """
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            yield
    except TimeoutError:
        log.warning("caller_does_not_read", remote=http.remote, seconds=WRITE_TIMEOUT_S)
        if http.transport is not None:
            http.transport.abort()
        raise ConnectionResetError("the caller does not read") from None
