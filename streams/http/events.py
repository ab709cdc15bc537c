"""An answer as server-sent events: its text as it grows, then the whole result.

    event: token
    data: {"text": " Par"}

    event: result
    data: {"success": true, ...}

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from engines.base import Emit
from streams.http.answers import result_response, writing_to
from streams.messages import Result, encode

CONTENT_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0
"""Silence after which a comment shows the caller and proxies that the connection is alive."""

_KEEP_ALIVE = b": waiting\n\n"
_END = None


def accepts_events(request: web.Request) -> bool:
    """Return whether the caller asks for events."""
    accepted = request.headers.get("Accept", "").lower().split(",")
    return any(kind.partition(";")[0].strip() == CONTENT_TYPE for kind in accepted)


async def stream_answer(
    request: web.Request, answer: Callable[[Emit], Awaitable[tuple[Result, bytes]]]
) -> web.StreamResponse:
    """Send what `answer` emits, and then the result and bytes it returns; if the caller leaves, it is cancelled.

    A request that fails before anything was sent gets an ordinary response, with its status. Later the status is sent
    already, so the failure is in the last event.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def emit(text: str) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(pieces.put_nowait, text)

    answering = asyncio.ensure_future(answer(emit))
    answering.add_done_callback(lambda _: pieces.put_nowait(_END))
    try:
        return await _send(request, answering, pieces)
    finally:
        if not answering.done():
            answering.cancel()
            await asyncio.wait([answering])


async def _send(
    request: web.Request, answering: asyncio.Future[tuple[Result, bytes]], pieces: asyncio.Queue[str | None]
) -> web.StreamResponse:
    # Proxies must not buffer the answer.
    headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)

    async def write(data: bytes) -> None:
        async with writing_to(request):
            if not response.prepared:
                await response.prepare(request)
            await response.write(data)

    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                piece = await pieces.get()
        except TimeoutError:
            await write(_KEEP_ALIVE)
            continue
        if piece is _END:
            break
        await write(_event("token", encode({"text": piece})))
    result, body = answering.result()
    if not response.prepared and not result.success:
        return result_response(result, body)
    await write(_event("result", body))
    await response.write_eof()
    return response


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
