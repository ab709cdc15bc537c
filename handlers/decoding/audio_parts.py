"""Splits recordings that are several concatenated files, and repairs headers without a size.

Source: RFC 3533 section 4 (chained Ogg); RFC 9639 section 8 (FLAC); Multimedia Programming Interface and Data
Specifications 1.0 (RIFF); http://gabriel.mp3-tech.org/mp3infotag.html (the Xing tag of MP3).
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Iterator

from handlers.decoding import asf, matroska, ogg

_XING = re.compile(rb"Xing|Info")
_BEFORE_XING = (9, 11, 17, 19, 32, 34)
"""Bytes between the header of a frame of MP3 and its Xing tag: by version and channels, with or without a checksum."""
_BEGINNINGS: dict[bytes, re.Pattern[bytes]] = {
    b"fLaC": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    b".snd": re.compile(rb"\.snd\x00\x00[\x00-\x10].....\x00\x00\x00[\x01-\x1b]\x00", re.DOTALL),
    b"RIFF": re.compile(rb"RIFF....WAVE(?:fmt |JUNK|bext|LIST)", re.DOTALL),
    **dict.fromkeys((b"RF64", b"BW64"), re.compile(rb"(?:RF|BW)64\xff{4}WAVEds64")),
    b"riff": re.compile(rb"riff\x2e\x91\xcf\x11.{8}.{8}wave\xf3\xac\xd3\x11", re.DOTALL),
    b"FORM": re.compile(rb"FORM....(?:AIF[FC](?:COMM|FVER|NAME)|(?:8SVX|16SV)(?:VHDR|NAME))", re.DOTALL),
    b"NIST": re.compile(rb"NIST_1A\n   1024\n"),
    b"caff": re.compile(rb"caff\x00\x01\x00\x00desc"),
    b"#!AM": re.compile(rb"#!AMR(?:-WB)?\n"),
    b"FLV\x01": re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00"),
    asf.HEADER[:4]: re.compile(re.escape(asf.HEADER)),
    matroska.EBML: re.compile(rb"\x1a\x45\xdf\xa3.{1,60}(?:webm|matroska)", re.DOTALL),
}
_UNKNOWN_SIZE = 0x7FFF_0000
"""RIFF sizes from here on mean "unknown": writers to a pipe cannot go back."""

_UNTOLD_SIZE = (1 << 64) - 1
"""The size of a CAF's last chunk where it extends to the end of the file."""

_MOST_CHUNKS = 1000
"""Most chunks counted of a CAF: files have about ten, hostile ones millions behind each of many headers."""

_SPHERE_HEADER = 1024
_SPHERE_COUNTS = (b"channel_count", b"sample_n_bytes", b"sample_count")

_WAVE64 = b"\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"

MOST_PARTS = 1000
"""Most files in one recording."""


def parts_of(content: bytes) -> list[bytes]:
    """Return the files in `content`, usually only itself, and never more than MOST_PARTS + 1."""
    starts = list(itertools.islice(_starts(content), MOST_PARTS + 1))
    if len(starts) < 2:
        return [content]
    return [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]


def with_known_size(content: bytes) -> bytes:
    """Return a wav or au whose header has no size, as a writer to a pipe leaves it, with its real size."""
    if content[:4] == b".snd" and content[8:12] == b"\0\0\0\0":
        return content[:8] + b"\xff\xff\xff\xff" + content[12:]
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return content
    data = next(((start, size) for start, name, size in _chunks(content, 12) if name == b"data"), None)
    if data is None:
        return content
    start, size = data
    rest = len(content) - start - 8
    if size or not rest or _are_chunks(content, start + 8):
        return content
    sizes = struct.pack("<I", len(content) - 8), struct.pack("<I", rest)
    return content[:4] + sizes[0] + content[8 : start + 4] + sizes[1] + content[start + 8 :]


def _are_chunks(content: bytes, start: int) -> bool:
    """Return whether an empty data chunk is followed by a list of chunks, not by samples."""
    end = start
    for begin, name, size in _chunks(content, start):
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False
        end = begin + 8 + size + size % 2
    return end in (len(content), len(content) + 1)


def _chunks(content: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield start, name and size of each chunk of a RIFF file."""
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        yield at, content[at : at + 4], size
        at += 8 + size + size % 2


def has_several_streams(content: bytes) -> bool:
    """Return whether an Ogg has several streams side by side: then its first pages each begin one."""
    return content.startswith(ogg.CAPTURE) and ogg.begins_stream(content, ogg.page_end(content, 0))


def _starts(content: bytes) -> Iterator[int]:
    """Yield where each file begins, the first at 0."""
    if content.startswith(ogg.CAPTURE):
        yield from _ogg_starts(content)
    elif content[4:8] in (b"ftyp", b"styp"):
        yield from _mp4_starts(content)
    elif (pattern := _BEGINNINGS.get(content[:4])) is not None:
        yield from _found(content, pattern)
    elif content[:3] == b"ID3" or content[:1] == b"\xff":
        yield from _mp3_starts(content)


def _found(content: bytes, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where `pattern` occurs outside the last file, as far as that has a length."""
    at = 0
    while True:
        yield at
        size = claimed_size(content, at) or 0
        found = pattern.search(content, at + (size if 4 < size <= len(content) - at else 4))
        if found is None:
            return
        at = found.start()


def claimed_size(content: bytes, at: int = 0) -> int | None:
    """Return the size that the file at `at` claims, at most its header's where it does not know its own, None where its
    kind has none. What comes behind may still belong to it, such as the index of a wma.

    Source: EBU Tech 3306 (RF64); Sony Wave64; Apple Core Audio Format 1.0; NIST SPHERE 2.6.
    """
    head = content[at : at + 40].ljust(40, b"\0")
    match head[:4], head[8:12]:
        case b"RIFF", _:
            return _known(int.from_bytes(head[4:8], "little")) + 8
        case b"FORM", b"AIFF" | b"AIFC" | b"8SVX" | b"16SV":
            return _known(int.from_bytes(head[4:8], "big")) + 8
        case b".snd", _:
            return int.from_bytes(head[4:8], "big") + _known(int.from_bytes(head[8:12], "big"))
        case ((b"RF64" | b"BW64"), b"WAVE") if head[12:16] == b"ds64":
            return int.from_bytes(head[20:28], "little") + 8
        case b"riff", _ if head[4:16] == _WAVE64:
            return int.from_bytes(head[16:24], "little")
        case b"caff", _:
            end = at + 8
            for _ in range(_MOST_CHUNKS):
                if end + 12 > len(content):
                    break
                size = int.from_bytes(content[end + 4 : end + 12], "big")
                end += 12 + (0 if size == _UNTOLD_SIZE else size)
                if size == _UNTOLD_SIZE:
                    break
            return end - at
        case b"NIST", _:
            return _sphere_size(content[at : at + _SPHERE_HEADER])
        case matroska.EBML, _:
            _, stop = matroska.segment_of(content, at) or (at, None)
            return None if stop is None else stop - at
        case (b"\x30\x26\xb2\x75", _) if head.startswith(asf.HEADER):
            stop = asf.end_of(content, at)
            return None if stop is None else stop - at
    return None


def _sphere_size(header: bytes) -> int | None:
    """Return the size of a SPHERE file, None where its header does not tell or its samples are compressed."""
    found = [re.search(rb"\n%b -i (\d{1,12})\n" % name, header) for name in _SPHERE_COUNTS]
    if b"shorten" in header or None in found:
        return None
    return _SPHERE_HEADER + math.prod(int(one[1]) for one in found if one)


def _known(size: int) -> int:
    """Return the size in a 32-bit header, 0 where it is unknown."""
    return size if size < _UNKNOWN_SIZE else 0


def _ogg_starts(content: bytes) -> Iterator[int]:
    """Yield the first page of each chain: one that begins a stream, after one that does not."""
    at, began = 0, False
    while at >= 0 and at + ogg.HEADER_SIZE <= len(content):
        begins = ogg.begins_stream(content, at)
        if begins and not began:
            yield at
        began = begins
        at = ogg.page_end(content, at)
        if not content.startswith(ogg.CAPTURE, at):  # bytes outside of any page, such as tags
            at = content.find(ogg.CAPTURE + b"\0", at)


def _mp4_starts(content: bytes) -> Iterator[int]:
    """Yield each ftyp box that comes after the index of the last file."""
    has_index = True
    for at, kind, _ in boxes(content):
        if kind == b"ftyp" and has_index:
            yield at
            has_index = False
        has_index = has_index or kind == b"moov"


def boxes(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield start, kind and size of each box of an mp4 file; a size below 8 ends the list: it is not a box."""
    at = 0
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        elif size == 0:  # the last box, to the end of the file
            size = len(content) - at
        yield at, kind, size
        if size < 8:
            return
        at += size


def _mp3_starts(content: bytes) -> Iterator[int]:
    """Yield each frame with a Xing tag, or the ID3 tag in front of it; a file with neither belongs to the last."""
    yield 0
    last = after_id3(content, 0)
    for xing in _XING.finditer(content, last):
        frame = _frame_of(content, xing.start())
        if frame is not None and frame > last:
            tag = content.rfind(b"ID3", last + 4, frame)
            yield tag if tag >= 0 and after_id3(content, tag) == frame else frame
            last = frame


def _frame_of(content: bytes, xing: int) -> int | None:
    """Return where the frame of MP3 begins that has its Xing tag at `xing`, None where it is not a tag of a frame."""
    starts = (xing - between - 4 for between in _BEFORE_XING)
    return next((start for start in starts if start >= 0 and _is_frame(content, start)), None)


def after_id3(content: bytes, at: int) -> int:
    """Return where the sound begins after the ID3 tags at `at`."""
    while content.startswith(b"ID3", at) and at + 10 <= len(content):
        sizes = content[at + 6 : at + 10]
        at += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
    return at


def _is_frame(content: bytes, at: int) -> bool:
    """Return whether the header of a layer-3 frame with a valid bit rate and sampling rate is at `at`."""
    head = content[at : at + 3]
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return False
    return head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3
