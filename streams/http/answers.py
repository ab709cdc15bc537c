"""Responses and how they are written: all is JSON, and a failure the ordinary result with `success` false."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from engines.run.results import refused_result
from handlers.errors import InferenceError, InvalidRequest
from handlers.logger import get_logger
from streams.http.status import retry_after, status_of
from streams.messages import Result, encode

log = get_logger(__name__)

WRITE_TIMEOUT_S = 60.0
"""How long a caller may leave unread what was sent before the connection is closed."""


class Refusal(Exception):
    """Raised when HTTP itself refuses a request: with its own status, beside the code INVALID_REQUEST."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = InvalidRequest(message)
        self.headers = headers or {}


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `value` as JSON.

    Raises:
        TypeError: something in it has no JSON form.
    """
    return web.Response(
        body=encode(value),
        status=status,
        headers={**retry_after(status), **(headers or {})},
        content_type="application/json",
    )


def result_response(result: Result, body: bytes) -> web.Response:
    """Return an answered request's result, which `body` encodes, with the status of its outcome."""
    status = 200 if result.error is None else status_of(result.error.code)
    return web.Response(
        body=body, status=status, headers=retry_after(status), content_type="application/json"
    )


def refused(
    error: InferenceError, *, worker: str, known: Mapping[str, Any] | None = None, queue_s: float = 0.0
) -> Result:
    """Return the result of a request that was not taken; `known` is what could be read of it, in `queue_s`."""
    return refused_result(error, known=known or {}, id=uuid.uuid4().hex, worker=worker, queue_s=queue_s)


@asynccontextmanager
async def writing_to(http: web.Request) -> AsyncIterator[None]:
    """Bound the time of a write that is done inside.

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


async def write_whole(http: web.Request, response: web.StreamResponse) -> None:
    """Send `response`, and return when the operating system has all but a little of it.

    Raises:
        ConnectionError: as `writing_to`.
    """
    async with writing_to(http):
        await response.prepare(http)
        await response.write_eof()
        await http.writer.drain()
