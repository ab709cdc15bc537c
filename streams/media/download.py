"""Reads a remote object to its end, resumes after interruptions, and undoes its Content-Encoding."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from handlers.errors import MediaCorrupt, MediaUnavailable
from handlers.media import Media
from streams.media.fetch import CHUNK_BYTES, Changed, Fetch, Interrupted

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
_NOT_DECODED = frozenset({"br", "zstd", "compress", "x-compress", "exi", "pack200-gzip", "dcb", "dcz"})
"""The other codings of the registry. A value that is not in it, such as "utf-8", is not a coding and is ignored.
Source: https://www.iana.org/assignments/http-parameters, HTTP Content Coding Registry."""

Get = Callable[[Fetch], None]
"""Sends one GET of an object under the fetch's condition; passes the headers and body of a success to the fetch.

Raises Interrupted, Changed, or a permanent MediaError, and what the fetch raises.
"""


def download(get: Get, fetch: Fetch) -> Media:
    """Return the whole object; tries again and resumes until it is complete or the fetch's deadline passes.

    Raises:
        MediaTooLarge: permanent; by the declared size, before the body is read, or while reading.
        MediaUnavailable: retryable; not complete within the deadline, or changed twice while being read.
        MediaNotFound, MediaForbidden, MediaCorrupt, InvalidInput: permanent; as the remote says.
    """
    has_changed = False
    fruitless = 0
    while True:
        fetch.check()
        fetch.tries += 1
        received_before = fetch.received
        try:
            get(fetch)
            return fetch.media(decoded(fetch.content(), fetch.coding, fetch))
        except Changed:
            if has_changed:
                raise MediaUnavailable(
                    f"{fetch.source} was overwritten twice while it was read; write each version under a key "
                    "of its own, or send the request again when it is complete"
                ) from None
            has_changed = True
            fetch.start_over()
        except Interrupted as fault:
            fetch.last_fault = str(fault)
            fruitless = fruitless + 1 if fetch.received <= received_before else 0
            if not fetch.can_resume:
                fetch.start_over()
            fetch.pause(_pause_s(fruitless))


def _pause_s(fruitless: int) -> float:
    """Return a random pause whose mean doubles with every try that brought nothing."""
    longest: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(fruitless, 10))
    return random.uniform(longest / 4, longest)


def decoded(content: bytes, coding: str, fetch: Fetch) -> bytes:
    """Return `content` without the codings that the header Content-Encoding names.

    The bytes that this adds count against the fetch's allowance, and the fetch's deadline holds. A coding that is not
    decoded here, or bytes that are not in that coding, raise MediaCorrupt (permanent).
    """
    names = [name for part in coding.split(",") if (name := part.strip().lower())]
    for name in reversed(names):  # the last one was applied last
        if name in _NOT_DECODED:
            raise MediaCorrupt(
                f"{fetch.source} is stored with Content-Encoding {name}; gzip and deflate are undone here: store it "
                "with one of these, or without"
            )
        if name in _DECODED:
            content = _inflated(content, name, fetch)
    return content


def _inflated(content: bytes, name: str, fetch: Fetch) -> bytes:
    whole = bytearray()
    left = content
    try:
        while left:
            inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
            while left and not inflate.eof:
                fetch.check()
                piece = inflate.decompress(left, CHUNK_BYTES)
                whole += piece
                if len(whole) > len(content):
                    fetch.count(min(len(piece), len(whole) - len(content)))
                left = inflate.unconsumed_tail
            if not inflate.eof:
                raise MediaCorrupt(f"{fetch.source} ends in the middle of its {name}; upload it again")
            left = inflate.unused_data  # gzip files may be concatenated
    except zlib.error as error:
        raise MediaCorrupt(
            f"{fetch.source} is stored with Content-Encoding {name} but its bytes are not {name} ({error}); correct "
            "the header, or upload it again"
        ) from None
    return bytes(whole)
