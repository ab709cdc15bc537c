"""Removes metadata from PNG files that decoders would refuse, or spend minutes or hundreds of megabytes on.

Only the orientation in EXIF and XMP affects the pixels; texts and profiles are removed.
Source: PNG (Third Edition) section 5.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_TELLS_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")

_MOST_TEXT = 1 << 20
"""Longest text that may hold the orientation, in bytes, as written and unpacked."""


def without_metadata(content: bytes) -> bytes:
    """Return `content`, or the same PNG without unneeded metadata; a damaged file stays as it is."""
    if not content.startswith(_PNG):
        return content
    kept: list[memoryview] = []
    view, since = memoryview(content), 0
    for start, end in _png_parts(content):
        if start > since:
            kept.append(view[since:start])
        since = end
    return b"".join([*kept, view[since:]]) if since else content


def _png_parts(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where chunks lie that hold a text or a colour profile."""
    start = len(_PNG)
    while start + 12 <= len(content):
        size = int.from_bytes(content[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        end = start + 12 + size
        if end > len(content):
            return
        is_text = kind in _PNG_TEXTS and not _tells_orientation(kind, content, start + 8, end - 4)
        if is_text or kind == b"iCCP":
            yield start, end
        start = end


def _tells_orientation(kind: bytes, content: bytes, start: int, end: int) -> bool:
    """Return whether a text may hold the orientation, and is short enough to read."""
    name = next((one for one in _PNG_TELLS_ORIENTATION if content.startswith(one, start, end)), None)
    if name is None or end - start > _MOST_TEXT:
        return False
    text = content[start + len(name) : end]
    if kind == b"zTXt":
        return _unpacks(text[1:])
    if kind == b"iTXt" and text[:1] == b"\1":
        return text.count(b"\0", 1) >= 3 and _unpacks(text[2:].split(b"\0", 2)[-1])
    return True


def _unpacks(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, _MOST_TEXT - 1)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
