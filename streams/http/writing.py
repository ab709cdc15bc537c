"""Writing to callers, of whom some do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

WRITE_TIMEOUT_S = 60.0
"""How long a caller may leave unread what was sent before the connection is closed."""


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
