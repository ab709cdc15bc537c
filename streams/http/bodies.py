"""Reads request bodies, with limits of bytes and time for each and for all together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from handlers.errors import Busy, InvalidRequest
from streams.http.answers import Refusal


@dataclass(slots=True)
class BodyBudget:
    """The bytes of all bodies in memory, at most `max_bytes`. Lives on one event loop."""

    max_bytes: int
    held: int = 0


class Body:
    """The body of one request, counted while the block runs; call `check` before reading and after each piece."""

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
            Refusal: 413; the body is larger than allowed, or declares to be.
            Busy: retryable; all bodies together are.
        """
        arrived, declared = self.request.content.total_bytes, self.request.content_length or 0
        if max(arrived, declared) > self._max_bytes:
            size = f"at least {arrived}" if arrived > declared else declared
            raise Refusal(
                413,
                f"the body has {size} bytes; http.max_body_bytes allows {self._max_bytes}: put media on S3 and send "
                "the s3:// address",
            )
        self._budget.held += arrived - self._counted
        self._counted = arrived
        if self._budget.held > self._budget.max_bytes:
            raise Busy(
                f"the bodies of requests in work already hold what worker.max_in_flight_bytes="
                f"{self._budget.max_bytes} allows; send this request again in a moment"
            )

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
