"""Limits how many requests the gateway takes at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from handlers.errors import Busy, EngineUnavailable


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
        """Count one request as pending during the block.

        Raises:
            Busy: retryable; the limit was reached meanwhile.
        """
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
                f"{self.pending} requests are in work and http.max_pending allows {self.max_pending}; "
                "send this one again in a moment"
            )
