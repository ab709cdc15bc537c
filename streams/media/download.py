"""The loop that reads a remote object to the end, resuming where a try broke off."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

from handlers.errors import MediaUnavailable
from handlers.media import Media
from streams.media.fetch import Fetch

CHUNK_BYTES = 256 * 1024

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Interrupted(Exception):
    """A try failed in a way that another try may not; the text says how, fit for a caller's eyes."""


class Changed(Exception):
    """The object is no longer the one whose first bytes were read."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answered GET whose body is still to be read."""

    offset: int
    """Where in the object the body starts; 0 where the server ignored the range."""

    total: int | None
    """Size of the whole object in bytes, where the server declares it."""

    etag: str | None
    """The object's strong ETag; None means that the object cannot be resumed."""

    content_type: str | None

    read: Callable[[], bytes]
    """Returns the next bytes as soon as some have come, at most CHUNK_BYTES; b"" at the end of the body."""


class Remote(Protocol):
    """An object that can be read from any offset."""

    def open(self, offset: int, etag: str | None) -> AbstractContextManager[Reply]:
        """Send one GET for the bytes from `offset` on, provided the object still has `etag`.

        Entering may raise, and so may reading inside: Interrupted, Changed, or a permanent MediaError.
        """


def download(remote: Remote, fetch: Fetch) -> Media:
    """Return the whole object, tried again and resumed until it is complete or the fetch's deadline passes.

    Source: RFC 9110, sections 13.1.1 (If-Match) and 14 (Range).

    Raises:
        MediaTooLarge: permanent; by the declared size, before the body is read, or while reading.
        MediaUnavailable: retryable; not complete within the deadline, or changed twice while being read.
        MediaNotFound, MediaForbidden, MediaCorrupt, InvalidInput: permanent; as the remote says.
    """
    body = BytesIO()
    etag: str | None = None
    has_changed = False
    fruitless = 0
    while True:
        fetch.check()
        fetch.tries += 1
        received_before = fetch.received
        try:
            with remote.open(fetch.received, etag) as reply:
                if fetch.received and (reply.etag, reply.total) != (etag, fetch.total):
                    raise Changed
                if reply.offset != fetch.received:
                    body = _emptied(fetch)
                etag = reply.etag
                _read(reply, body, fetch)
        except Changed:
            if has_changed:
                raise MediaUnavailable(
                    f"{fetch.source} was overwritten twice while it was read; write each version under a key "
                    "of its own, or send the request again when it is complete"
                ) from None
            has_changed = True
            body, etag = _emptied(fetch), None
        except Interrupted as fault:
            fetch.last_fault = str(fault)
            fruitless = fruitless + 1 if fetch.received <= received_before else 0
            if etag is None:
                body = _emptied(fetch)
            fetch.pause(_pause_s(fruitless))
        else:
            return Media(body.getvalue(), fetch.source, reply.content_type)


def extent(content_range: str | None, content_length: int | None) -> tuple[int, int | None]:
    """Return where a body starts in its object and the object's size: "bytes 5-9/10" gives 5 and 10.

    Raises:
        Interrupted: the range is unreadable.
    """
    if content_range is None:
        return 0, content_length
    span, _, total = content_range.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    if not start.isdigit() or not total.isdigit():
        raise Interrupted("the answer has an unreadable Content-Range")
    return int(start), int(total)


def _read(reply: Reply, body: BytesIO, fetch: Fetch) -> None:
    fetch.expect(reply.total)
    while chunk := reply.read():
        fetch.check()
        fetch.take(len(chunk))
        body.write(chunk)
    if reply.total is not None and fetch.received != reply.total:
        raise Interrupted(f"the body ended at byte {fetch.received} of {reply.total}")


def _emptied(fetch: Fetch) -> BytesIO:
    fetch.start_over()
    return BytesIO()


def _pause_s(fruitless: int) -> float:
    """Return a random pause that doubles in the mean with every try that brought nothing."""
    longest: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(fruitless, 10))
    return random.uniform(longest / 4, longest)
