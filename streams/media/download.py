"""The loop that reads a remote object to the end, resuming where a try broke off."""

from __future__ import annotations

import random
from collections.abc import Mapping
from io import BytesIO
from typing import Protocol

from handlers.errors import MediaUnavailable
from handlers.media import Media
from streams.media.content_coding import decoded
from streams.media.fetch import Fetch

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Interrupted(Exception):
    """A try failed in a way that another try may not; the text says how, fit for a caller's eyes."""


class Changed(Exception):
    """The object is no longer the one whose first bytes were read."""


class Remote(Protocol):
    """An object that can be read from any offset."""

    def get(self, condition: Mapping[str, str], download: Download) -> None:
        """Send one GET with the headers of `condition`, and tell `download` of a success and its body.

        May raise Interrupted, Changed, or a permanent MediaError, and raises what `download` does.
        """


def download(remote: Remote, fetch: Fetch) -> Media:
    """Return the whole object, tried again and resumed until it is complete or the fetch's deadline passes.

    Raises:
        MediaTooLarge: permanent; by the declared size, before the body is read, or while reading.
        MediaUnavailable: retryable; not complete within the deadline, or changed twice while being read.
        MediaNotFound, MediaForbidden, MediaCorrupt, InvalidInput: permanent; as the remote says.
    """
    under_way = Download(fetch)
    has_changed = False
    fruitless = 0
    while True:
        fetch.check()
        fetch.tries += 1
        received_before = fetch.received
        try:
            remote.get(under_way.condition(), under_way)
            return under_way.media()
        except Changed:
            if has_changed:
                raise MediaUnavailable(
                    f"{fetch.source} was overwritten twice while it was read; write each version under a key "
                    "of its own, or send the request again when it is complete"
                ) from None
            has_changed = True
            under_way.start_over()
        except Interrupted as fault:
            fetch.last_fault = str(fault)
            fruitless = fruitless + 1 if fetch.received <= received_before else 0
            if not under_way.can_resume:
                under_way.start_over()
            fetch.pause(_pause_s(fruitless))


class Download:
    """What has come of an object, put together of one or several GETs; belongs to the thread that sends them.

    Source: RFC 9110, sections 13.1.1 (If-Match) and 14 (Range).
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._body = BytesIO()
        self._etag: str | None = None
        self._content_type: str | None = None
        self._coding = ""

    @property
    def can_resume(self) -> bool:
        return self._etag is not None

    def condition(self) -> dict[str, str]:
        """Return the headers of a GET for what is missing, provided the object is still the same."""
        if self._etag is None or not self._fetch.received:
            return {}
        return {"Range": f"bytes={self._fetch.received}-", "If-Match": self._etag}

    def begin(self, headers: Mapping[str, str]) -> None:
        """Take the headers of a success, by names in lower case, before its body.

        Raises:
            Changed: it is another object than before.
            Interrupted: its headers make no sense.
            MediaTooLarge: permanent; it declares more bytes than are allowed.
        """
        fetch = self._fetch
        length = headers.get("content-length", "")
        start, total = extent(headers.get("content-range"), int(length) if length.isdigit() else None)
        etag = headers.get("etag") or None
        if etag is not None and etag.startswith("W/"):
            etag = None  # a weak one may stand for several bodies, so that none can be resumed
        if fetch.received and (etag, total) != (self._etag, fetch.total):
            raise Changed
        if start != fetch.received:
            self.start_over()
        self._etag = etag
        self._content_type = headers.get("content-type")
        self._coding = headers.get("content-encoding", "")
        fetch.expect(total)

    def take(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            MediaTooLarge: permanent; they are more than is allowed.
            MediaUnavailable: retryable; the deadline has passed.
        """
        self._fetch.check()
        self._fetch.take(len(chunk))
        self._body.write(chunk)

    def check(self) -> None:
        """Raise where the rest is of no use any more.

        Raises:
            MediaUnavailable: retryable; the deadline has passed or nobody waits.
        """
        self._fetch.check()

    def media(self) -> Media:
        """Return the object, without the Content-Encoding it is stored with.

        Raises:
            Interrupted: it is not complete.
            MediaError: permanent; as `content_coding.decoded`.
        """
        fetch = self._fetch
        if fetch.total is not None and fetch.received != fetch.total:
            raise Interrupted(f"the body ended at byte {fetch.received} of {fetch.total}")
        content = self._body.getvalue()
        if self._coding:
            content = decoded(content, self._coding, fetch)
        return Media(content, fetch.source, self._content_type)

    def start_over(self) -> None:
        """Forget what has come."""
        self._fetch.start_over()
        self._body = BytesIO()
        self._etag = None


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


def _pause_s(fruitless: int) -> float:
    """Return a random pause that doubles in the mean with every try that brought nothing."""
    longest: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(fruitless, 10))
    return random.uniform(longest / 4, longest)
