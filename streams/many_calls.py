"""Runs many requests at once, up to a bound, and yields their outcomes as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from streams.client_errors import ClientError, TaskNotOpened
from streams.messages import Request, Result


async def outcomes(
    requests: Iterable[Request] | AsyncIterable[Request],
    prepare: Callable[[Request], Request],
    infer: Callable[[Request], Coroutine[Any, Any, Result]],
    *,
    most: int,
) -> AsyncGenerator[tuple[str, Result | ClientError]]:
    """Yield the id of each request with its result, or with the error, in the order in which they end.

    `prepare` gives a request its id, or raises TaskNotOpened, which ends everything at once. `requests` is read one
    ahead of the `most` requests that are under way or not yet yielded; its own error is raised after the outcomes of
    earlier requests. A request with the id of one under way waits for that one. Leaving early cancels what is under
    way.
    """
    room = asyncio.Semaphore(most)
    ended: asyncio.Queue[asyncio.Task[Result] | None] = asyncio.Queue()
    calls: dict[asyncio.Task[Result], str] = {}
    latest: dict[str, asyncio.Task[Result]] = {}

    async def begin_all() -> None:
        async with aclosing(_one_by_one(requests)) as source:
            async for request in source:
                prepared = prepare(request)
                await room.acquire()
                if prepared.id in latest:
                    await asyncio.wait([latest[prepared.id]])
                call = latest[prepared.id] = asyncio.create_task(infer(prepared))
                calls[call] = prepared.id
                call.add_done_callback(ended.put_nowait)

    beginning = asyncio.create_task(begin_all())
    beginning.add_done_callback(lambda _: ended.put_nowait(None))
    try:
        while calls or not beginning.done():
            call = await ended.get()
            if call is None:
                if isinstance(beginning.exception(), TaskNotOpened):
                    break
                continue
            identity = calls.pop(call)
            if latest.get(identity) is call:
                del latest[identity]
            try:
                outcome: Result | ClientError = call.result()
            except ClientError as error:
                outcome = error
            yield identity, outcome
            room.release()
        beginning.result()
    finally:
        for task in (beginning, *calls):
            task.cancel()
        await asyncio.gather(beginning, *calls, return_exceptions=True)


async def _one_by_one(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncGenerator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
