"""Decodes the Content-Encoding of a stored object, within the bytes that its request may hold."""

from __future__ import annotations

import zlib

from handlers.errors import MediaCorrupt
from streams.media.fetch import CHUNK_BYTES, Fetch

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
_NOT_DECODED = frozenset({"br", "zstd", "compress", "x-compress", "exi", "pack200-gzip", "dcb", "dcz"})
"""The other codings of the registry. A value that is not in it, such as "utf-8", is not a coding and is ignored.
Source: https://www.iana.org/assignments/http-parameters, HTTP Content Coding Registry."""


def decoded(content: bytes, coding: str, fetch: Fetch) -> bytes:
    """Return `content` without the codings that the header Content-Encoding names.

    The bytes that this adds count against the fetch's allowance, and the fetch's deadline holds.

    Raises:
        MediaCorrupt: permanent; a coding that is not decoded here, or bytes that are not in that coding.
        MediaTooLarge: permanent; it holds more than is allowed.
        MediaUnavailable: retryable; the deadline has passed.
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
