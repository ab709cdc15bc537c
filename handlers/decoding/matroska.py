"""Checks the clusters of Matroska files (mkv, mka, webm): their checksums, and whether their elements fit into them.

Source: RFC 8794 section 4 (EBML); RFC 9559 (Matroska).
"""

from __future__ import annotations

import zlib

EBML = b"\x1a\x45\xdf\xa3"
"""How every file begins."""

SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_TOP = {
    _CLUSTER,
    b"\x11\x4d\x9b\x74",  # SeekHead
    b"\x15\x49\xa9\x66",  # Info
    b"\x16\x54\xae\x6b",  # Tracks
    b"\x1c\x53\xbb\x6b",  # Cues
    b"\x19\x41\xa4\x69",  # Attachments
    b"\x10\x43\xa7\x70",  # Chapters
    b"\x12\x54\xc3\x67",  # Tags
}
"""The elements of a segment, besides those that may stand anywhere."""

_VOID, _CRC, _BLOCK = 0xEC, 0xBF, 0xA3
_INSIDE = frozenset({_BLOCK, 0xA0, 0xAF, 0xE7, 0xA7, 0xAB, _VOID, _CRC})
"""The elements of a cluster with an id of one byte: blocks, groups of them, its time and position."""
_SILENT_TRACKS = b"\x58\x54"

_MOST_ELEMENTS = 1_000_000
"""Most elements looked at: about a second of work, four hours of speech."""


def size_at(content: bytes, position: int) -> tuple[int | None, int]:
    """Return the size written at `position`, None where it is unknown, and where the counted bytes begin."""
    first = content[position] if position < len(content) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(content[position : position + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), position + length


def segment_of(content: bytes, at: int = 0) -> tuple[int, int | None] | None:
    """Return where the elements of the file at `at` begin and end (None: untold); None where it has no segment."""
    size, start = size_at(content, at + 4)
    start += size or 0
    if content[start : start + 4] != SEGMENT:
        return None
    size, start = size_at(content, start + 4)
    return start, None if size is None else start + size


def damaged_clusters(content: bytes) -> tuple[int, int]:
    """Return how many clusters are damaged, and how many there are. Of a cluster without a checksum, damage within its
    blocks is not seen. A file without its end is not damaged for that."""
    if (segment := segment_of(content)) is None:
        return 0, 0
    at, promised = segment
    end = min(len(content), promised or len(content))
    is_whole = promised is not None and promised <= len(content)
    clusters = damaged = seen = 0
    while at + 4 <= end and seen < _MOST_ELEMENTS:
        seen += 1
        if content.startswith(_CLUSTER, at):
            clusters += 1
            size, start = size_at(content, at + 4)
            if size is None or start + size > end:  # it ends where an element begins that is not of clusters
                at, count = _walk(content, start, end)
                damaged += size is not None and is_whole
            else:
                at = start + size
                is_sound, count = _is_sound(content, start, at)
                damaged += not is_sound
            seen += count
        elif (after := _after(content, at)) is not None and after <= end:
            at = after
        else:
            at = content.find(_CLUSTER, at + 1, end)
            damaged += at >= 0 or is_whole  # else it may be cut off, or other bytes may follow it
            if at < 0:
                break
    return damaged, max(clusters, damaged)


def _after(content: bytes, at: int) -> int | None:
    """Return where the element of a segment at `at` ends, None where there is none, or one of unknown length."""
    if content[at : at + 4] in _TOP:
        size, start = size_at(content, at + 4)
    elif content[at] in (_VOID, _CRC):
        size, start = size_at(content, at + 1)
    else:
        return None
    return None if size is None else start + size


def _is_sound(content: bytes, start: int, end: int) -> tuple[bool, int]:
    """Return whether a cluster's checksum is right, or without one, whether its elements fill it; and how many of them
    were looked at."""
    if content[start] == _CRC and content[start + 1] == 0x84 and end - start >= 6:
        found = zlib.crc32(memoryview(content)[start + 6 : end])
        return found == int.from_bytes(content[start + 2 : start + 6], "little"), 1
    at, count = _walk(content, start, end)
    return at == end, count


def _walk(content: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where the elements of a cluster from `at` on end, at most at `end`, and how many they are."""
    count = 0
    while at + 2 <= end and count < _MOST_ELEMENTS:
        if content[at] in _INSIDE:
            size, start = size_at(content, at + 1)
        elif content.startswith(_SILENT_TRACKS, at):
            size, start = size_at(content, at + 2)
        else:
            break
        if size is None or start + size > end:
            break
        at, count = start + size, count + 1
    return at, count
