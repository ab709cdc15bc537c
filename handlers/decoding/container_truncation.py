"""Containers of sound and pictures that lost their end."""

from __future__ import annotations

import re

from handlers.decoding.audio_truncation import MissingEnd

_KIND = re.compile(rb"[ -~\xa9]{4}")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_end_of_container(content: bytes) -> MissingEnd | None:
    """Return what is missing of an mp4, webm or avi file that ends too early, else None.

    Source: ISO/IEC 14496-12 section 4.2 (boxes of mp4); RFC 8794 section 4 (sizes in webm).
    """
    if content[4:8] in (b"ftyp", b"styp", b"moov"):
        return _missing_of_mp4(content)
    if content[:4] == _EBML:
        return _missing_of_webm(content)
    if content[:4] == b"RIFF" and content[8:12] == b"AVI ":
        return _compared(int.from_bytes(content[4:8], "little") + 8, content)
    return None


def _missing_of_mp4(content: bytes) -> MissingEnd | None:
    start, kinds = 0, set()
    while start + 8 <= len(content):
        size, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        if size == 1:
            size = int.from_bytes(content[start + 8 : start + 16], "big")
        elif size == 0:  # the last box, to the end of the file
            size = len(content) - start
        if size < 8 or not _KIND.fullmatch(kind):  # not a box, but bytes that somebody put behind them
            break
        kinds.add(kind)
        start += size
    if start > len(content):
        return _compared(start, content)
    return None if b"moov" in kinds else MissingEnd("its index (moov) did not come")


def _missing_of_webm(content: bytes) -> MissingEnd | None:
    header_size, header_start = _size_at(content, 4)
    segment = header_start + (header_size or 0)
    if content[segment : segment + 4] != _SEGMENT:
        return MissingEnd("its segment did not come")
    size, start = _size_at(content, segment + 4)
    return None if size is None else _compared(start + size, content)


def _size_at(content: bytes, position: int) -> tuple[int | None, int]:
    """Return the size written at `position`, None where it is unknown, and where what it counts begins."""
    first = content[position] if position < len(content) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(content[position : position + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), position + length


def _compared(promised: int, content: bytes) -> MissingEnd | None:
    if promised <= len(content):
        return None
    return MissingEnd.of(promised, len(content))
