"""Reads request bodies, with limits of bytes and time for each and for all together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from handlers.errors import Busy, InvalidRequest
from streams.http.answers import Refusal


class BodyBudget:
    """Counts the bytes of all bodies in memory, at most `max_bytes`. Lives on one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0

    def take(self, count: int) -> None:
        """Count `count` more bytes as held.

        Raises:
            Busy: retryable; there is no room for them. They are counted nevertheless.
        """
        self.held += count
        if self.held > self.max_bytes:
            raise Busy(
                f"the bodies of requests in work already hold what worker.max_in_flight_bytes={self.max_bytes} "
                "allows; send this request again in a moment"
            )


class Body:
    """The body of one request, counted while the block runs; call `check` after each piece that was read."""

    def __init__(self, request: web.Request, max_bytes: int, budget: BodyBudget) -> None:
        self.request = request
        self._max_bytes = max_bytes
        self._budget = budget
        self._counted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.held -= self._counted

    def check(self) -> None:
        """Count what has arrived so far, decompressed.

        Raises:
            Refusal: 413; the body is larger than allowed.
            Busy: retryable; all bodies together are.
        """
        arrived = self.request.content.total_bytes
        if arrived > self._max_bytes:
            raise self._too_large(f"at least {arrived} bytes")
        more, self._counted = arrived - self._counted, arrived
        self._budget.take(more)

    def check_declared(self) -> None:
        """Refuse a body whose declared size is too large.

        Raises:
            Refusal: 413.
        """
        declared = self.request.content_length
        if declared is not None and declared > self._max_bytes:
            raise self._too_large(f"{declared} bytes")

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            Refusal, Busy: as `check`.
        """
        whole = bytearray()
        async for chunk in self.request.content.iter_any():
            self.check()
            whole += chunk
        return bytes(whole)

    def _too_large(self, size: str) -> Refusal:
        return Refusal(
            413,
            f"the body has {size}; http.max_body_bytes allows {self._max_bytes}: put media on S3 and send "
            "the s3:// address",
        )


@asynccontextmanager
async def arriving_within(seconds: float) -> AsyncIterator[None]:
    """Bound the reading of a body, and turn errors of reading into messages.

    Raises:
        Refusal: 408; it took longer.
        InvalidRequest: permanent; the body is not what its headers announce.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Refusal(
            408,
            f"the body did not arrive within http.body_timeout_s={seconds:g}; send it faster, or put media on "
            "S3 and send the s3:// address",
        ) from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise InvalidRequest(f"the body does not decode as its headers say: {error}") from None
