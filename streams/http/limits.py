"""Limits of the gateway: requests under way, and open connections."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from handlers.errors import Busy, EngineUnavailable, counted
from handlers.logger import get_logger

log = get_logger(__name__)

_ENOUGH_FILES = 65_536


class ConcurrencyLimit:
    """Counts the requests under way. Lives on one event loop.

    `present` are all requests without an answer, `pending` those of them whose body has arrived. Only these count
    against `max_pending`, so callers that upload slowly block no others.
    """

    def __init__(self, max_pending: int) -> None:
        self.max_pending = max_pending
        self.present = 0
        self.pending = 0
        self.is_stopping = False
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Count one request as present during the block.

        Raises:
            EngineUnavailable: retryable; this process is stopping.
            Busy: retryable; the limit is reached, so its body is not read.
        """
        if self.is_stopping:
            raise EngineUnavailable("this worker is stopping; send the request again, to another one")
        self._check_place()
        self.present += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.present -= 1
            if not self.present:
                self._empty.set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count one request as pending during the block; raises Busy (retryable) where the limit was reached."""
        self._check_place()
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    async def drained(self) -> None:
        """Take no new requests; return when none is present any more."""
        self.is_stopping = True
        await self._empty.wait()

    def _check_place(self) -> None:
        if self.pending >= self.max_pending:
            raise Busy(
                f"{counted(self.pending, 'request')} in work, and http.max_pending allows {self.max_pending}; "
                "send this one again in a moment"
            )


class Connections:
    """The connections of one HTTP server. Lives on its event loop.

    A connection is busy while the body of `answering` runs. Of the others, which wait for a request or for the rest
    of one, those are closed first whose last answer is the oldest, or that never had one.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._answering: set[asyncio.BaseProtocol] = set()
        self._answered_at: dict[asyncio.BaseProtocol, float] = {}

    def accept(self, server: web.Server) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection; close idle ones where there is no room."""
        open_now = server.connections
        if len(open_now) >= self.limit:
            self._make_room(open_now)
        return server()

    @contextmanager
    def answering(self, http: web.Request) -> Iterator[None]:
        """Keep the connection of a request open during the block, however many others come."""
        protocol = http.protocol
        self._answering.add(protocol)
        try:
            yield
        finally:
            self._answering.remove(protocol)
            if protocol.transport is not None:
                self._answered_at[protocol] = time.monotonic()

    def _make_room(self, open_now: list[web.RequestHandler]) -> None:
        self._answered_at = {one: self._answered_at.get(one, 0.0) for one in open_now}
        idle = [one for one in open_now if one not in self._answering]
        idle.sort(key=self._answered_at.__getitem__)
        # Several at once, as finding them takes time.
        closed = idle[: self.limit // 16 + 1]
        for one in closed:
            one.force_close()
        log.warning("http_connections_closed", closed=len(closed), open=len(open_now), max_connections=self.limit)


def connections_allowed(most: int) -> int:
    """Return the most connections to keep: half of the files that this process may open, or `most` if lower.

    First raises the process's limit of open files as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft // 2))
