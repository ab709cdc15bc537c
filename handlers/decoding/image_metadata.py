"""Removes metadata from image files that decoders would refuse, or spend minutes or hundreds of megabytes on.

Only the orientation in EXIF and XMP affects the pixels; texts, profiles and comments are removed.
Source: PNG (Third Edition) section 5; ITU-T T.81 annex B (JPEG); the netpbm page on ppm.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_TELLS_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")

_MOST_TEXT = 1 << 20
"""Longest text that may hold the orientation, in bytes, as written and unpacked."""

_ORDINARY_BYTES = 1 << 16
"""Metadata of a JPEG or PPM up to this size are kept."""

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_NEEDS_NO_LENGTH = (0x01, *range(0xD0, 0xDA))


def without_metadata(content: bytes) -> bytes:
    """Return `content`, or the same image without unneeded metadata; a damaged file stays as it is."""
    if content.startswith(_PNG):
        return _without(content, _png_parts(content))
    if content.startswith(b"\xff\xd8"):
        slim = _without(content, _jpeg_parts(content))
        return slim if len(content) - len(slim) > _ORDINARY_BYTES else content
    if content[:1] == b"P" and content[1:2].isalnum():
        return _without_ppm_comments(content)
    return content


def _without(content: bytes, parts: Iterator[tuple[int, int]]) -> bytes:
    """Return `content` without `parts`, (start, end) in ascending order."""
    kept: list[memoryview] = []
    view, since = memoryview(content), 0
    for start, end in parts:
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


def _jpeg_parts(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where comments and application segments are, except those needed to decode the image."""
    seen: set[bytes] = set()
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker = content[start + 1]
        if marker == 0xFF:  # padding
            start += 1
            continue
        if marker in _NEEDS_NO_LENGTH:
            start += 2
            continue
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if marker == 0xDA or end > len(content):  # the picture begins
            return
        if marker == 0xFE or 0xE1 <= marker <= 0xED or marker == 0xEF:
            kind = next((one for one in (_EXIF, _XMP) if content.startswith(one, start + 4, end)), None)
            if kind is None or kind in seen or marker != 0xE1:
                yield start, end
            else:
                seen.add(kind)
        start = end


_BLANK = re.compile(rb"(?:\s+|#[^\n\r]*)*")
_WORD = re.compile(rb"[^\s#]+")


def _without_ppm_comments(content: bytes) -> bytes:
    """Return a PPM whose header has no comments."""
    words, at = [content[:2]], 2
    for _ in range(2 if content[:2] in (b"P1", b"P4") else 3):
        blank = _BLANK.match(content, at)
        word = _WORD.match(content, blank.end() if blank else at)
        if word is None or word.end() - word.start() > 16:
            return content
        words.append(word[0])
        at = word.end()
    return content if at <= _ORDINARY_BYTES else b"\n".join(words) + content[at:]
