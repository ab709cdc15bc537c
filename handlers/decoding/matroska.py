"""Checks the clusters of Matroska files (mkv, mka, webm): their checksums, and whether their elements fit into them.

Source: RFC 8794 section 4 (EBML); RFC 9559 (Matroska).
"""

from __future__ import annotations

import zlib

EBML = b"\x1a\x45\xdf\xa3"
"""How every file begins."""

_SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_CRC, _VOID = b"\xbf", b"\xec"
_TOP = {
    b"\x11\x4d\x9b\x74",  # SeekHead
    b"\x15\x49\xa9\x66",  # Info
    b"\x16\x54\xae\x6b",  # Tracks
    b"\x1c\x53\xbb\x6b",  # Cues
    b"\x19\x41\xa4\x69",  # Attachments
    b"\x10\x43\xa7\x70",  # Chapters
    b"\x12\x54\xc3\x67",  # Tags
    _CRC,
    _VOID,
}
"""The elements of a segment besides clusters."""

_INSIDE = {b"\xa3", b"\xa0", b"\xaf", b"\xe7", b"\xa7", b"\xab", b"\x58\x54", _CRC, _VOID}
"""The elements of a cluster: blocks, groups of them, its time, position and silent tracks."""

_MOST_ELEMENTS = 1_000_000
"""Most elements looked at: about a second of work, four hours of speech."""


def _element_at(content: bytes, at: int) -> tuple[bytes, int, int | None]:
    """Return the id of the element at `at`, where its data begins, and where that ends (None: untold)."""
    size_at = at + (9 - content[at].bit_length() if at < len(content) else 9)
    width = 9 - content[size_at].bit_length() if size_at < len(content) else 9
    unknown = (1 << 7 * width) - 1
    start = size_at + width
    size = int.from_bytes(content[size_at:start], "big") & unknown
    return content[at:size_at], start, None if size == unknown else start + size


def segment_of(content: bytes, at: int = 0) -> tuple[int, int | None] | None:
    """Return where the elements of the file at `at` begin and end (None: untold); None where it has no segment."""
    _, start, end = _element_at(content, at)
    name, start, end = _element_at(content, end or start)
    return (start, end) if name == _SEGMENT else None


def damaged_clusters(content: bytes) -> tuple[int, int]:
    """Return how many clusters are damaged, and how many there are. Of a cluster without a checksum, damage within its
    blocks is not seen. A file without its end is not damaged for that."""
    if (segment := segment_of(content)) is None:
        return 0, 0
    at, promised = segment
    end = min(len(content), promised or len(content))
    is_whole = promised is not None and promised <= len(content)
    clusters = damaged = seen = 0
    while 0 <= at <= end - 4 and seen < _MOST_ELEMENTS:
        seen += 1
        name, start, stop = _element_at(content, at)
        if name == _CLUSTER:
            clusters += 1
            if stop is None or stop > end:  # it ends where an element begins that is not of clusters
                is_sound = stop is None or not is_whole
                at, count = _walk(content, start, end)
            else:
                is_sound, count = _is_sound(content, start, stop)
                at = stop
            damaged += not is_sound
            seen += count
        elif name in _TOP and stop is not None and stop <= end:
            at = stop
        else:
            at = content.find(_CLUSTER, at + 1, end)
            damaged += at >= 0 or is_whole  # else it may be cut off, or other bytes may follow it
    return damaged, max(clusters, damaged)


def _is_sound(content: bytes, start: int, end: int) -> tuple[bool, int]:
    """Return whether a cluster's checksum is right, or without one, whether its elements fill it; and how many of them
    were looked at."""
    if content.startswith(_CRC + b"\x84", start) and end - start >= 6:
        found = zlib.crc32(memoryview(content)[start + 6 : end])
        return found == int.from_bytes(content[start + 2 : start + 6], "little"), 1
    at, count = _walk(content, start, end)
    return at == end, count


def _walk(content: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where the elements of a cluster from `at` on end, at most at `end`, and how many they are."""
    count = 0
    while at + 2 <= end and count < _MOST_ELEMENTS:
        name, _, stop = _element_at(content, at)
        if name not in _INSIDE or stop is None or stop > end:
            break
        at, count = stop, count + 1
    return at, count
