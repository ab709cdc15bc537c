"""MediaFetcher: replaces the media addresses of a request by the media, in separate threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from handlers.errors import InferenceError, InvalidInput, MediaUnavailable, as_inference_error
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

    def __init__(
        self,
        media: MediaSettings,
        s3: S3Settings,
        *,
        trust_local_paths: bool = False,
        web_schemes: Collection[str] = frozenset({"https"}),
    ) -> None:
        """`trust_local_paths` is for callers in this process: it allows every path that the process can read."""
        self._media = media
        self._s3_settings = s3
        self._web_schemes = frozenset(web_schemes)
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
        places = _places(data, fields)
        fetches = self._start(places, deadline_s)
        if fetches:
            answers = [one.answer for one in fetches]
            try:
                wait(answers, timeout=fetches[0].remaining_s(), return_when=FIRST_EXCEPTION)
            except BaseException:
                for one in fetches:
                    one.stop()
                raise
        return _replaced(data, places, self._collect(fetches))

    async def aresolve(
        self, data: Mapping[str, Any], fields: Sequence[str], *, deadline_s: float | None = None
    ) -> dict[str, Any]:
        """Return what `resolve` returns, without blocking the event loop."""
        places = _places(data, fields)
        fetches = self._start(places, deadline_s)
        await _wait_async(fetches)
        return _replaced(data, places, self._collect(fetches))

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

    def __enter__(self) -> MediaFetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, places: Sequence[tuple[Place, Value]], deadline_s: float | None) -> list[Fetch]:
        allowance = Allowance(self._media.max_bytes)
        if deadline_s is not None and deadline_s < self._media.deadline_s:
            limit_s, limit_name = max(0.0, deadline_s), "what the request's own deadline leaves"
        else:
            limit_s, limit_name = self._media.deadline_s, "media.deadline_s"
        fetches = []
        for place, value in places:
            one = Fetch(
                _source(place, value),
                allowance=allowance,
                deadline_s=limit_s,
                deadline_name=limit_name,
                place=_name(place),
            )
            fetches.append(one)
            if isinstance(value, bytes | Media):
                self._work(one, value)  # no fetch, so no thread is needed
                continue
            with self._lock:
                if self._closed:
                    one.fail(_stopping(one.source))
                    continue
                self._under_way.add(one)
                self._threads.submit(contextvars.copy_context().run, self._work, one, value)
        return fetches

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
        match value:
            case Media() | bytes():
                media = value if isinstance(value, Media) else Media(value, one.source)
                one.expect(len(media.content))
                one.count(len(media.content))
                return media
        address = value
        match scheme := scheme_of(address, any_path=self._roots is None):
            case "s3":
                return download(partial(self._s3_store().get, parse_s3_address(address)), one)
            case "https" | "http":
                web = self._web_store()
                return download(partial(web.get, web.url(address, one.source)), one)
            case "data":
                media = decode_data_uri("data" + address[4:], max_bytes=self._media.max_bytes)
                one.count(len(media.content))
                return media
            case "file":
                return read_local(parse_file_uri(address), self._roots, one)
            case "":
                return read_local(PurePosixPath(address), self._roots, one)
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
                self._web = WebStore(self._media.allowed_hosts, schemes=self._web_schemes)
            return self._web

    def _collect(self, fetches: Sequence[Fetch]) -> list[Media]:
        """Return all answers; or end the unanswered fetches and raise the first failure in order."""
        failed = [one for one in fetches if one.answer.done() and one.answer.exception() is not None]
        late = [one for one in fetches if not one.answer.done()]
        for one in late:
            one.fail(one.late())
        for one in [*failed, *late]:
            error = one.answer.exception()
            if isinstance(error, InferenceError):
                raise type(error)(f"{one.place}: {error.message}" if one.place else error.message) from None
        return [one.answer.result() for one in fetches]


async def _wait_async(fetches: Sequence[Fetch]) -> None:
    """Wait until all are answered, one has failed, or the deadline has passed; a cancel ends them all."""
    if not fetches:
        return
    loop = asyncio.get_running_loop()
    answers = [asyncio.wrap_future(one.answer, loop=loop) for one in fetches]
    try:
        await asyncio.wait(answers, timeout=fetches[0].remaining_s(), return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        for one in fetches:
            one.stop()
        raise
    finally:
        for answer in answers:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # retrieved; `_collect` raises it


def _places(data: Mapping[str, Any], fields: Sequence[str]) -> list[tuple[Place, Value]]:
    places: list[tuple[Place, Value]] = []
    for field in fields:
        given = data.get(field)
        values = given if isinstance(given, list | tuple) else [given]
        for index, value in enumerate(values):
            if isinstance(value, bytearray | memoryview):
                value = bytes(value)
            elif isinstance(value, Path):
                value = str(value)
            if isinstance(value, str | bytes | Media):
                places.append(((field, index if values is given else None), value))
    return places


def _replaced(
    data: Mapping[str, Any], places: Sequence[tuple[Place, Value]], media: Sequence[Media]
) -> dict[str, Any]:
    copy = dict(data)
    for ((field, index), _), one in zip(places, media, strict=True):
        if index is None:
            copy[field] = one
        else:
            if copy[field] is data[field]:
                copy[field] = list(data[field])
            copy[field][index] = one
    return copy


def _name(place: Place) -> str:
    field, index = place
    return f"data.{field}" if index is None else f"data.{field}[{index}]"


def _source(place: Place, value: Value) -> str:
    match value:
        case Media():
            return value.source
        case bytes():
            return f"{_name(place)} ({len(value)} bytes)"
    return shown(value)


def _stopping(source: str) -> MediaUnavailable:
    return MediaUnavailable(f"{source} was not fetched: this worker is stopping; send the request again")
