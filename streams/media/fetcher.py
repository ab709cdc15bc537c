"""MediaFetcher: replaces the media addresses of a request by the media, in separate threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from handlers.errors import InferenceError, InvalidInput, MediaUnavailable, as_inference_error, counted
from handlers.logger import get_logger
from handlers.media import Media, decode_data_uri
from handlers.settings import MediaSettings
from streams.media.addresses import ACCEPTED, parse_file_uri, parse_s3_address, scheme_of, shown
from streams.media.download import download
from streams.media.fetch import Allowance, Fetch
from streams.media.local import read_local
from streams.settings import S3Settings

if TYPE_CHECKING:
    from streams.media.s3 import S3Store
    from streams.media.web import WebStore

log = get_logger(__name__)

Place = tuple[str, int | None]
"""A field of `data`, and the index in it where it is a list."""

Value = str | bytes | Media
"""A media value: an address, or the media themselves."""


class MediaFetcher:
    """Fetches the media of requests: from S3, data: URIs, allowed hosts and allowed folders.

    Addresses: `s3://bucket/key[?versionId=ID]` (the key as it is stored, not percent-decoded), `https://host/path` at
    media.allowed_hosts, `data:` URIs, and absolute paths or file:/// URIs under media.allowed_roots. Thread-safe; one
    instance serves the whole process. Every call ends within its deadline, whatever the store does, and at once after
    `close`. The media of one call are together at most `media.max_bytes` large. Every failure is a MediaError or
    InvalidInput whose message names the address, the numbers and what to do.
    """

    def __init__(self, media: MediaSettings, s3: S3Settings, *, trust_local_paths: bool = False) -> None:
        """`trust_local_paths` is for callers in this process: it allows every path that the process can read."""
        self._media = media
        self._s3_settings = s3
        self._roots = None if trust_local_paths else media.allowed_roots
        self._threads = ThreadPoolExecutor(media.threads, thread_name_prefix="media")
        self._lock = threading.Lock()
        self._closed = False
        self._under_way: set[Fetch] = set()
        self._stores_lock = threading.Lock()  # held while a client is built, which takes time
        self._s3: S3Store | None = None
        self._web: WebStore | None = None

    def resolve(
        self, data: Mapping[str, Any], fields: Sequence[str], *, deadline_s: float | None = None
    ) -> dict[str, Any]:
        """Return a copy of a request's `data` with the media values in `fields`, or in lists there, as Media.

        Addresses, paths and bytes are replaced; arrays, images and everything else stay as they are. All are fetched
        side by side within `deadline_s` or media.deadline_s, whichever is smaller; the first failure ends the others.
        Messages begin with the field, as in "data.images[1]: ...".

        Raises:
            InvalidInput: permanent; not an address of these kinds.
            MediaNotFound, MediaForbidden, MediaTooLarge, MediaCorrupt: permanent.
            MediaUnavailable: retryable; it did not arrive in time, or the fetcher was closed.
        """
        with self._fetching(data, fields, deadline_s) as fetches:
            answers = [one.answer for one in fetches.values()]
            wait(answers, timeout=_remaining_s(fetches), return_when=FIRST_EXCEPTION)
            return _replaced(data, fetches)

    async def aresolve(
        self, data: Mapping[str, Any], fields: Sequence[str], *, deadline_s: float | None = None
    ) -> dict[str, Any]:
        """Return what `resolve` returns, without blocking the event loop."""
        with self._fetching(data, fields, deadline_s) as fetches:
            answers = [asyncio.wrap_future(one.answer) for one in fetches.values()]
            try:
                if answers:
                    await asyncio.wait(answers, timeout=_remaining_s(fetches), return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for answer in answers:
                    if not answer.cancel() and not answer.cancelled():
                        answer.exception()  # retrieved; `_replaced` raises it
            return _replaced(data, fetches)

    def close(self) -> None:
        """End all fetches with MediaUnavailable and close the connections; idempotent, does not wait.

        A thread that waits for bytes ends by itself within the read timeout.
        """
        with self._lock:
            self._closed = True
            under_way = list(self._under_way)
        for one in under_way:
            one.fail(_stopping(one.source))
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._stores_lock:
            for store in (self._s3, self._web):
                if store is not None:
                    store.close()

    @contextmanager
    def _fetching(
        self, data: Mapping[str, Any], fields: Sequence[str], deadline_s: float | None
    ) -> Iterator[dict[Place, Fetch]]:
        """Fetch the media values in `fields`; when the block ends, so do the fetches without an answer."""
        allowance = Allowance(self._media.max_bytes)
        if deadline_s is not None and deadline_s < self._media.deadline_s:
            limit_s, limit_name = max(0.0, deadline_s), "what the request's own deadline leaves"
        else:
            limit_s, limit_name = self._media.deadline_s, "media.deadline_s"
        fetches: dict[Place, Fetch] = {}
        try:
            for place, value in _values(data, fields):
                one = fetches[place] = Fetch(
                    _source(place, value), allowance=allowance, deadline_s=limit_s, deadline_name=limit_name
                )
                self._start(one, value)
            yield fetches
        finally:
            for one in fetches.values():
                if not one.answer.done():
                    one.fail(one.late())

    def _start(self, one: Fetch, value: Value) -> None:
        if not isinstance(value, str):
            self._work(one, value)  # no fetch, so no thread is needed
            return
        with self._lock:
            if self._closed:
                one.fail(_stopping(one.source))
                return
            self._under_way.add(one)
            self._threads.submit(contextvars.copy_context().run, self._work, one, value)

    def _work(self, one: Fetch, value: Value) -> None:
        try:
            one.check()
            one.succeed(self._get(one, value))
        except InferenceError as error:
            one.fail(error)
        except BaseException as error:
            log.exception("media_fetch_failed", source=one.source)
            one.fail(as_inference_error(error))
        finally:
            with self._lock:
                self._under_way.discard(one)

    def _get(self, one: Fetch, value: Value) -> Media:
        if not isinstance(value, str):
            media = value if isinstance(value, Media) else Media(value, one.source)
            one.expect(len(media.content))
            one.count(len(media.content))
            return media
        match scheme := scheme_of(value, any_path=self._roots is None):
            case "s3":
                return download(partial(self._s3_store().get, parse_s3_address(value)), one)
            case "https" | "http":
                web = self._web_store()
                return download(partial(web.get, web.url(value, one.source)), one)
            case "data":
                media = decode_data_uri("data" + value[4:], max_bytes=self._media.max_bytes)
                one.count(len(media.content))
                return media
            case "file":
                return read_local(parse_file_uri(value), self._roots, one)
            case "":
                return read_local(PurePosixPath(value), self._roots, one)
        raise InvalidInput(f"{one.source}: {scheme}:// is not supported; write {ACCEPTED}")

    def _s3_store(self) -> S3Store:
        from streams.media.s3 import S3Store

        with self._stores_lock:
            if self._s3 is None:
                self._s3 = S3Store(self._s3_settings, connections=self._media.threads)
            return self._s3

    def _web_store(self) -> WebStore:
        from streams.media.web import WebStore

        with self._stores_lock:
            if self._web is None:
                self._web = WebStore(self._media.allowed_hosts)
            return self._web


def _values(data: Mapping[str, Any], fields: Sequence[str]) -> Iterator[tuple[Place, Value]]:
    for field in fields:
        given = data.get(field)
        values = given if isinstance(given, list | tuple) else [given]
        for index, value in enumerate(values):
            if isinstance(value, bytearray | memoryview):
                value = bytes(value)
            elif isinstance(value, Path):
                value = str(value)
            if isinstance(value, str | bytes | Media):
                yield (field, index if values is given else None), value


def _remaining_s(fetches: Mapping[Place, Fetch]) -> float:
    """Return the seconds left before the deadline, which is the same for all."""
    return max((one.remaining_s() for one in fetches.values()), default=0.0)


def _replaced(data: Mapping[str, Any], fetches: Mapping[Place, Fetch]) -> dict[str, Any]:
    """Return a copy of `data` with the fetched media, or raise the first failure; what has no answer comes last."""
    for place, one in sorted(fetches.items(), key=lambda item: not item[1].answer.done()):
        error = one.answer.exception() if one.answer.done() else one.late()
        if isinstance(error, InferenceError):
            raise type(error)(f"{_name(place)}: {error.message}") from None
    copy = dict(data)
    for (field, index), one in fetches.items():
        if index is None:
            copy[field] = one.answer.result()
        else:
            if copy[field] is data[field]:
                copy[field] = list(data[field])
            copy[field][index] = one.answer.result()
    return copy


def _name(place: Place) -> str:
    field, index = place
    return f"data.{field}" if index is None else f"data.{field}[{index}]"


def _source(place: Place, value: Value) -> str:
    if isinstance(value, Media):
        return value.source
    return shown(value) if isinstance(value, str) else f"{_name(place)} ({counted(len(value), 'byte')})"


def _stopping(source: str) -> MediaUnavailable:
    return MediaUnavailable(f"{source} was not fetched: this worker is stopping; send the request again")
