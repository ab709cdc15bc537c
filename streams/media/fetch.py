"""One fetch under way: its deadline, its allowance of bytes, the bytes so far, and its answer.

Source: RFC 9110, sections 13.1.1 (If-Match) and 14 (Range).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from io import BytesIO

from handlers.errors import InferenceError, MediaTooLarge, MediaUnavailable, counted
from handlers.media import Media

CHUNK_BYTES = 256 * 1024
"""Most bytes to read between two checks of the clock."""


class Interrupted(Exception):
    """Raised when a try failed and another one may succeed; the message is fit for callers."""


class Changed(Exception):
    """Raised when the object is not the one whose first bytes were read."""


class Allowance:
    """The bytes that the media of one request may take together; thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.left = max_bytes
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take `count` bytes and return True, or take none and return False."""
        with self._lock:
            if count > self.left:
                return False
            self.left -= count
            return True

    def give_back(self, count: int) -> None:
        with self._lock:
            self.left += count


class Fetch:
    """One address being fetched: a worker thread sends its GETs, while a caller waits for `answer`.

    The worker calls `check` between any two steps, so it ends soon after the deadline or `fail`. The caller never
    waits for the worker: `fail` answers at once, and a later result of the worker is dropped.
    """

    def __init__(self, source: str, *, allowance: Allowance, deadline_s: float, deadline_name: str) -> None:
        self.source = source
        self.allowance = allowance
        self.answer: Future[Media] = Future()
        self.answer.set_running_or_notify_cancel()  # so that the caller cannot cancel it
        self.received = 0
        self.total: int | None = None
        self.tries = 0
        self.last_fault = ""
        self._body = BytesIO()
        self._etag: str | None = None
        self._content_type: str | None = None
        self.coding = ""
        """The Content-Encoding of the stored object."""
        self._limit = f"{deadline_s:.3g} s ({deadline_name})"
        self._ends = time.monotonic() + deadline_s
        self._stopped = threading.Event()

    def remaining_s(self) -> float:
        """Return the seconds left before the deadline, never below 0."""
        return max(0.0, self._ends - time.monotonic())

    def check(self) -> None:
        """Raise MediaUnavailable, retryable, where the deadline has passed or the caller has gone."""
        if self._stopped.is_set() or time.monotonic() >= self._ends:
            raise self.late()

    def pause(self, seconds: float) -> None:
        """Wait before the next try, at most until the deadline or `fail`; then `check`."""
        self._stopped.wait(min(seconds, self.remaining_s()))
        self.check()

    def expect(self, total: int | None) -> None:
        """Note the size the store declares, or raise MediaTooLarge (permanent) before a byte of the body is read."""
        self.total = total
        if total is not None and total - self.received > self.allowance.left:
            raise self._too_large(f"holds {total} bytes")

    def count(self, count: int) -> None:
        """Count bytes against the allowance, or raise MediaTooLarge (permanent)."""
        if not self.allowance.take(count):
            raise self._too_large(f"holds at least {self.received + count} bytes")
        self.received += count

    @property
    def can_resume(self) -> bool:
        return self._etag is not None

    def condition(self) -> dict[str, str]:
        """Return the headers of a GET for what is missing, provided the object is still the same."""
        if self._etag is None or not self.received:
            return {}
        return {"Range": f"bytes={self.received}-", "If-Match": self._etag}

    def begin(self, headers: Mapping[str, str]) -> None:
        """Take the headers of a success, with lower-case names, before its body.

        Raises:
            Changed: it is another object than before.
            Interrupted: its headers contradict each other.
            MediaTooLarge: permanent; it declares more bytes than are allowed.
        """
        length = headers.get("content-length", "")
        start, total = extent(headers.get("content-range"), int(length) if length.isdigit() else None)
        etag = headers.get("etag") or None
        if etag is not None and etag.startswith("W/"):
            etag = None  # a weak ETag may stand for several bodies, so the download cannot be resumed
        if self.received and (etag, total) != (self._etag, self.total):
            raise Changed
        if start != self.received:
            self.start_over()
        self._etag = etag
        self._content_type = headers.get("content-type")
        self.coding = headers.get("content-encoding", "")
        self.expect(total)

    def take(self, chunk: bytes) -> None:
        """Take the next bytes of the body, as `check` and `count` allow."""
        self.check()
        self.count(len(chunk))
        self._body.write(chunk)

    def content(self) -> bytes:
        """Return the whole object, or raise Interrupted where it is not complete."""
        if self.total is not None and self.received != self.total:
            raise Interrupted(f"the body ended at byte {self.received} of {self.total}")
        return self._body.getvalue()

    def media(self, content: bytes) -> Media:
        """Return `content` as the Media of this address."""
        return Media(content, self.source, self._content_type)

    def start_over(self) -> None:
        """Forget what was received."""
        self.allowance.give_back(self.received)
        self.received = 0
        self.total = None
        self._body = BytesIO()
        self._etag = None

    def succeed(self, media: Media) -> None:
        """Answer with `media`, unless an answer was given already."""
        with suppress(InvalidStateError):
            self.answer.set_result(media)

    def fail(self, error: InferenceError) -> None:
        """Answer with `error`, unless an answer was given already, and let the worker end."""
        self._stopped.set()
        with suppress(InvalidStateError):
            self.answer.set_exception(error)

    def late(self) -> MediaUnavailable:
        """Return the error of a passed deadline, with how far the fetch got."""
        total = self.received if self.total is None else self.total
        so_far = f"{'' if self.total is None else f'{self.received} of '}{counted(total, 'byte')}"
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        fault = f"; the last fault: {self.last_fault}" if self.last_fault else ""
        host = "the store at s3.endpoint_url" if self.source.startswith("s3:") else "its host"
        return MediaUnavailable(
            f"{self.source} did not arrive within {self._limit}: {so_far} in {tries}{fault}; "
            f"check that {host} answers, or send the request again later"
        )

    def _too_large(self, what: str) -> MediaTooLarge:
        others = self.allowance.max_bytes - self.allowance.left - self.received
        beside = f" beside {others} bytes of the request's other media" if others > 0 else ""
        return MediaTooLarge(
            f"{self.source} {what}{beside}; media.max_bytes allows {self.allowance.max_bytes} a request: "
            "send a smaller or shorter one, or raise media.max_bytes on the workers"
        )


def extent(content_range: str | None, content_length: int | None) -> tuple[int, int | None]:
    """Return where a body starts in its object, and the object's size: "bytes 5-9/10" gives 5 and 10.

    An unreadable range raises Interrupted.
    """
    if content_range is None:
        return 0, content_length
    span, _, total = content_range.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    if not start.isdigit() or not total.isdigit():
        raise Interrupted("the answer has an unreadable Content-Range")
    return int(start), int(total)
