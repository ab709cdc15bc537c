"""What a PNG holds beside its pixels, and whether these are whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_TELLS_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")

_MOST_TEXT = 1 << 20
"""Longest text that may hold the orientation, in bytes, as written and unpacked."""


def without_metadata(content: bytes) -> bytes | bytearray:
    """Return `content`, of a PNG without texts and profiles, which decoders refuse or spend minutes and hundreds of
    megabytes on: only the orientation in EXIF and XMP affects the pixels. A damaged file stays as it is.

    Source: PNG (Third Edition) section 5.
    """
    if not content.startswith(_PNG):
        return content
    kept, end = bytearray(_PNG), len(_PNG)
    for kind, start, end in _chunks(content):
        is_text = kind in _PNG_TEXTS and not _tells_orientation(kind, content, start + 8, end - 4)
        if not is_text and kind != b"iCCP":
            kept += content[start:end]
    return content if len(kept) == end else kept + content[end:]


def has_damaged_pixels(content: bytes) -> bool:
    """Return whether `content` is a PNG whose pixels are not those that were written, by their checksums; Pillow reads
    on as long as they unpack. A file that is cut short is not told so here.

    Source: PNG (Third Edition) sections 5.3 and 11.2.3.
    """
    if not content.startswith(_PNG):
        return False
    view = memoryview(content)
    return any(
        zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big")
        for kind, start, end in _chunks(content)
        if kind == b"IDAT"
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each whole chunk of a PNG, and where it begins and ends."""
    start = len(_PNG)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        yield content[start + 4 : start + 8], start, end
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
