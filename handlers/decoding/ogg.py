"""Checks the pages of Ogg files by their checksums.

Source: RFC 3533 section 6.
"""

from __future__ import annotations

import zlib

CAPTURE = b"OggS"
"""How every page begins."""

_HEADER = 27
_BEGINS, _ENDS = 2, 4
"""The flags of the first and the last page of a stream."""

_MOST_PAGES = 500_000
"""Most pages checked: about a second of work. Four hours of speech have some 15 thousand."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the opposite order: of such bytes, the checksum of zlib is that of Ogg."""


def damaged_pages(content: bytes) -> tuple[int, int]:
    """Return how many pages are damaged, and how many there are.

    Bytes outside of pages, such as tags, do not count where the numbers of pages have no gap. Neither does a last page
    without its end.
    """
    whole = damaged = failed = at = 0
    numbers: dict[bytes, int] = {}
    is_gap = False
    while 0 <= at <= len(content) - _HEADER and whole + damaged + failed < _MOST_PAGES:
        end = _end(content, at)
        if not _is_whole(content, at, end):
            at, is_gap = content.find(CAPTURE, at + 4), True
            failed += at >= 0 or end <= len(content)
            continue
        flags, serial = content[at + 5], content[at + 14 : at + 18]
        number = int.from_bytes(content[at + 18 : at + 22], "little")
        if is_gap:
            missing = 0 if flags & _BEGINS else number - numbers.get(serial, number) - 1
            damaged, failed = damaged + max(failed, missing), 0
        numbers[serial] = number
        whole, at, is_gap = whole + 1, end, not content.startswith(CAPTURE, end)
        if is_gap:
            at = content.find(CAPTURE, end)
            is_lost = at < 0 and end < len(content) and not flags & _ENDS
            failed += is_lost  # the last page, whose beginning is damaged
    return damaged + failed, whole + damaged + failed


def _end(content: bytes, at: int) -> int:
    """Return where the page at `at` ends by its header."""
    lengths = at + _HEADER
    body = lengths + content[lengths - 1]
    return body + sum(content[lengths:body])


def _is_whole(content: bytes, at: int, end: int) -> bool:
    """Return whether the checksum of a page is right: a CRC with the polynomial 04c11db7 that starts at 0, of the page
    with its checksum 0."""
    if end > len(content):
        return False
    page = content[at:end].translate(_REVERSED)
    checksum = zlib.crc32(page[:22], 0xFFFFFFFF)
    checksum = zlib.crc32(page[26:], zlib.crc32(bytes(4), checksum)) ^ 0xFFFFFFFF
    return checksum == int.from_bytes(page[22:26], "big")
