"""Limits open connections: idle ones are closed to make room for new ones."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from handlers.logger import get_logger

log = get_logger(__name__)

_ENOUGH_FILES = 65_536


class Connections:
    """The connections of one HTTP server. Lives on its event loop.

    A connection is busy while the body of `answering` runs. Of the others, which wait for a request or for the rest
    of one, those are closed first whose last answer is the oldest, or that never had one.
    """

    def __init__(self, server: web.Server, limit: int) -> None:
        self.limit = limit
        self._server = server
        self._answering: Counter[asyncio.BaseProtocol] = Counter()
        self._answered_at: dict[asyncio.BaseProtocol, float] = {}

    def accept(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection, for `loop.create_server`; close idle ones where there is no room."""
        open_now = self._server.connections
        if len(open_now) >= self.limit:
            self._make_room(open_now)
        return self._server()

    @contextmanager
    def answering(self, http: web.Request) -> Iterator[None]:
        """Keep the connection of a request open during the block, however many others come."""
        protocol = http.protocol
        self._answering[protocol] += 1
        try:
            yield
        finally:
            self._answering[protocol] -= 1
            if not self._answering[protocol]:
                del self._answering[protocol]
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
        log.warning(
            "http_connections_closed", closed=len(closed), open=len(open_now), max_connections=self.limit
        )


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
