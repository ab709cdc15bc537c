"""Checks the pages of Ogg files by their checksums.

Source: RFC 3533 section 6.
"""

from __future__ import annotations

import struct
import zlib

CAPTURE = b"OggS"
"""How every page begins."""

HEADER_SIZE = 27
_FIELDS = struct.Struct("<5xB8xII")
"""The flags of a page, the serial number of its stream, and its own number in that."""
_BEGINS, _ENDS = 2, 4
"""The flags of the first and the last page of a stream."""

_MOST_PAGES = 500_000
"""Most pages checked: about a second of work. Four hours of speech have some 15 thousand."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the opposite order: of such bytes, the checksum of zlib is that of Ogg."""


def page_end(content: bytes, at: int) -> int:
    """Return where the page at `at` ends by its header; beyond the end of the file where that is missing."""
    lengths = at + HEADER_SIZE
    if lengths > len(content):
        return lengths
    body = lengths + content[lengths - 1]
    return body + sum(content[lengths:body])


def begins_stream(content: bytes, at: int) -> bool:
    """Return whether there is a page at `at` that is the first of its stream."""
    return content.startswith(CAPTURE, at) and at + HEADER_SIZE <= len(content) and bool(content[at + 5] & _BEGINS)


def damaged_pages(content: bytes) -> tuple[int, int]:
    """Return how many pages are damaged, and how many there are.

    Bytes outside of pages, such as tags, do not count where the numbers of pages have no gap. Neither does a last page
    without its end.
    """
    whole = damaged = failed = at = last_end = 0
    numbers: dict[int, int] = {}
    while 0 <= at <= len(content) - HEADER_SIZE and whole + damaged + failed < _MOST_PAGES:
        end = page_end(content, at)
        if not _is_whole(content, at, end):
            at = content.find(CAPTURE, at + 4)
            failed += at >= 0 or end <= len(content)
            continue
        flags, serial, number = _FIELDS.unpack_from(content, at)
        missing = 0 if at == last_end or flags & _BEGINS else number - numbers.get(serial, number) - 1
        damaged, failed = damaged + max(failed, missing), 0
        whole, last_end, numbers[serial] = whole + 1, end, number
        at = content.find(CAPTURE, end)
        failed += at < 0 and end < len(content) and not flags & _ENDS  # the last page, whose beginning is damaged
    return damaged + failed, whole + damaged + failed


def _is_whole(content: bytes, at: int, end: int) -> bool:
    """Return whether the checksum of a page is right: a CRC with the polynomial 04c11db7 that starts at 0, of the page
    with its checksum 0."""
    if end > len(content):
        return False
    page = content[at:end].translate(_REVERSED)
    checksum = zlib.crc32(page[:22], 0xFFFFFFFF)
    checksum = zlib.crc32(page[26:], zlib.crc32(bytes(4), checksum)) ^ 0xFFFFFFFF
    return checksum == int.from_bytes(page[22:26], "big")
