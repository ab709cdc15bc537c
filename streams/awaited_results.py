"""Futures of results by request id, which all end when no result can come any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from streams.client_errors import ClientError
from streams.messages import Result

T = TypeVar("T")


class AwaitedResults:
    """Hands each result to the futures that wait for it, until it is ended. Lives on the event loop that it is made
    on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.failure: ClientError | None = None
        """Why no result will come any more."""
        self._ending: asyncio.Future[None] = self.loop.create_future()
        self._waiting: dict[str, list[asyncio.Future[Result]]] = {}

    def __len__(self) -> int:
        """Return how many request ids have a waiting future."""
        return len(self._waiting)

    def expect(self, request_id: str) -> asyncio.Future[Result]:
        """Return a new future of the next result with that id."""
        future: asyncio.Future[Result] = self.loop.create_future()
        if self.failure is not None:
            _fail(future, self.failure)
            return future
        self._waiting.setdefault(request_id, []).append(future)
        future.add_done_callback(lambda done: self._forget(request_id, done))
        return future

    def arrived(self, result: Result) -> None:
        """Hand `result` to all futures that wait for it."""
        for future in self._waiting.get(result.id, ()):
            if not future.done():
                future.set_result(result)

    def end(self, failure: ClientError) -> None:
        """End all futures with `failure`; the first call counts."""
        if self.failure is None:
            self.failure = failure
            self._ending.set_result(None)
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    _fail(future, failure)

    async def or_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, or raise the failure that ends this first."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            assert self.failure is not None
            raise self.failure
        finally:
            working.cancel()

    def _forget(self, request_id: str, future: asyncio.Future[Result]) -> None:
        waiting = self._waiting[request_id]
        waiting.remove(future)
        if not waiting:
            del self._waiting[request_id]


def _fail(future: asyncio.Future[Result], failure: ClientError) -> None:
    future.set_exception(failure)
    future.exception()  # perhaps nothing awaits it any more, and asyncio would log an unretrieved exception
