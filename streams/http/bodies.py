"""Reads request bodies, with limits of bytes and time for each and for all together; forms carry their media.

In multipart/form-data, either one part `request` holds the request as JSON, or its fields are separate text parts
(`data`, `options` and `metadata` as JSON). Each file part is media; its name is the field of `data` it belongs to.

Source: RFC 7578.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Self

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from handlers.errors import Busy, InvalidInput, InvalidRequest, MediaTooLarge
from handlers.media import Media
from streams.http.answers import Refusal
from streams.messages import Request, encode

MAX_PARTS = 1000
_CHUNK_BYTES = 64 * 1024
_JSON_FIELDS = ("data", "options", "metadata", "priority")
_WHOLE = "request"


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
        """Return the whole body, as far as `check` allows."""
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


@dataclass(slots=True)
class Form:
    """The content of a form: the text of its fields, and the media of its files, in order."""

    texts: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, list[Media]] = field(default_factory=dict)

    def request_json(self) -> bytes:
        """Return the request as JSON, without its files; one that mixes both ways raises InvalidRequest (permanent)."""
        whole = self.texts.get(_WHOLE)
        if whole is None:
            fields = {name: _value(name, text) for name, text in self.texts.items()}
        elif len(self.texts) > 1:
            others = ", ".join(sorted(self.texts.keys() - {_WHOLE}))
            raise InvalidRequest(f"the form has a part {_WHOLE!r} and the fields {others}; put them into the request")
        else:
            try:
                fields = msgspec.json.decode(whole, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return whole  # decoding it as a request reports what is wrong
        return encode({"data": {}, **fields} if self.files else fields)


async def read_form(body: Body, *, max_media_bytes: int) -> Form:
    """Return the content of the form in `body`, whose files together have at most `max_media_bytes`.

    Raises:
        InvalidRequest, MediaTooLarge: permanent.
        Refusal, Busy: as `Body.check`.
    """
    form = Form()
    media_bytes = 0
    try:
        reader = await body.request.multipart()
        for _ in range(MAX_PARTS):
            part = await reader.next()
            body.check()
            if part is None:
                return form
            if not isinstance(part, BodyPartReader) or not part.name:
                raise InvalidRequest("each part of the form needs a name, and none may be a form itself")
            content = bytearray()
            while chunk := await part.read_chunk(_CHUNK_BYTES):
                body.check()
                content += chunk
                if part.filename is not None and media_bytes + len(content) > max_media_bytes:
                    raise MediaTooLarge(
                        f"the files of the form hold at least {media_bytes + len(content)} bytes; "
                        f"media.max_bytes allows {max_media_bytes} a request: send smaller or shorter ones"
                    )
            if part.filename is not None:
                media_bytes += len(content)
                form.files.setdefault(part.name, []).append(_media(part, bytes(content)))
            elif part.name in form.texts:
                raise InvalidRequest(f"the form gives the field {part.name} twice; give it once")
            else:
                form.texts[part.name] = bytes(content)
    except (ValueError, AssertionError) as error:
        raise InvalidRequest(
            f"the body is not readable multipart/form-data: {error}; let your HTTP client build it (curl -F ...)"
        ) from None
    raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")


def with_files(request: Request, form: Form, media_fields: Iterable[str]) -> Request:
    """Return `request` with the form's files in its data; one that has no place there raises InvalidInput (permanent).

    A field given once becomes one Media, a field given several times a list. A field whose name is the plural of
    another media field of the task, as `images` is of `image`, is always a list.
    """
    fields = tuple(media_fields)
    data = dict(request.data)
    for name, media in form.files.items():
        if name not in fields:
            takes = f"send it as {' or '.join(fields)}" if fields else "this task takes no files"
            raise InvalidInput(
                f"the form has a file named {name}, which is not a media field of task {request.task}; {takes}"
            )
        if data.get(name) is not None:
            raise InvalidInput(f"data.{name} is given both as a file and in data; give one of them")
        several = len(media) > 1 or name.removesuffix("s") in set(fields) - {name}
        data[name] = media if several else media[0]
    return msgspec.structs.replace(request, data=data)


def _media(part: BodyPartReader, content: bytes) -> Media:
    filename = (part.filename or "").encode("ascii", "backslashreplace").decode()[:80]
    return Media(
        content, f"uploaded file {filename}" if filename else "uploaded file", part.headers.get("Content-Type")
    )


def _value(name: str, text: bytes) -> Any:
    """Return the value that the text of a form field stands for."""
    try:
        if name in _JSON_FIELDS:
            return msgspec.json.decode(text)
        written = text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        wanted = "JSON" if name in _JSON_FIELDS else "UTF-8 text"
        raise InvalidRequest(f"the form field {name} is not {wanted}: {error}") from None
    if name == "deadline":
        with suppress(ValueError):
            # JSON has only these; msgspec would write null for another, and the deadline would be lost.
            if isfinite(seconds := float(written)):
                return seconds
    return written
