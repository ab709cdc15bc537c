"""Detects files of sound and pictures that lost their end, or with damage in their middle; decoders report neither."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from handlers.decoding import asf, matroska, ogg
from handlers.decoding.audio_parts import after_id3, boxes, claimed_size
from handlers.errors import counted

ENOUGH = 0.5
"""A file is used if more than this part of its declared length is there."""

_KIND = re.compile(rb"[ -~\xa9]{4}")


@dataclass(frozen=True, slots=True)
class MissingEnd:
    """What is missing of a file that ends too early, and whether enough is surely there to use the file."""

    text: str
    is_little: bool = False

    @classmethod
    def of(cls, promised: int, content: bytes, *, start: int = 0) -> MissingEnd | None:
        """Return what is missing of a file that declares so many bytes from `start` on, None where nothing is."""
        came = len(content) - start
        if promised <= came:
            return None
        return cls(f"its header promises {promised} bytes and {came} came", is_little=came / promised > ENOUGH)


def missing_end(content: bytes) -> MissingEnd | None:
    """Return what is missing of a file of sound or pictures that ends too early, else None. Of kinds that do not tell
    their size, such as flac, nothing is known.

    Source: Multimedia Programming Interface and Data Specifications 1.0 (RIFF); EBU Tech 3306 (RF64); Sony Wave64;
        Apple Core Audio Format 1.0; RFC 3533 section 6 (Ogg); http://gabriel.mp3-tech.org/mp3infotag.html (MP3);
        ISO/IEC 14496-12 section 4.2 (boxes of mp4); RFC 8794 section 4 (sizes in webm).
    """
    if content.startswith(ogg.CAPTURE):
        return _missing_of_ogg(content)
    if content[4:8] in (b"ftyp", b"styp", b"moov"):
        return _missing_of_mp4(content)
    if content.startswith(matroska.EBML) and matroska.segment_of(content) is None:
        return MissingEnd("its segment did not come")
    promised = claimed_size(content)
    if promised is None:
        return _missing_of_mp3(content)
    is_padded = not content.startswith((matroska.EBML, asf.HEADER))  # to an even size, which some leave out at the end
    return MissingEnd.of(promised, content) if len(content) + is_padded < promised else None


def _missing_of_ogg(content: bytes) -> MissingEnd | None:
    start = content.rfind(ogg.CAPTURE)
    if len(content) < start + ogg.HEADER_SIZE:
        return MissingEnd("its last page has no whole header")
    end = ogg.page_end(content, start)
    return MissingEnd(f"its last page promises {end} bytes and {len(content)} came") if end > len(content) else None


def _missing_of_mp3(content: bytes) -> MissingEnd | None:
    start = after_id3(content, 0)
    first_frame = content[start : start + 200]
    if first_frame[:1] != b"\xff":
        return None
    tag = max(first_frame.find(b"Xing"), first_frame.find(b"Info"))
    if tag < 0 or len(first_frame) < tag + 16:
        return None
    flags, frames, size = struct.unpack_from(">III", first_frame, tag + 4)
    has_frames, has_size = flags & 1, flags & 2
    claimed = (size if has_frames else frames) if has_size else 0
    # Encoders disagree on whether the tag's own frame and the tags at the end count: allow a hundredth.
    return MissingEnd.of(claimed, content, start=start) if claimed * 0.99 > len(content) - start else None


def _missing_of_mp4(content: bytes) -> MissingEnd | None:
    end, kinds = 0, set()
    for start, kind, size in boxes(content):
        if size < 8 or not _KIND.fullmatch(kind):  # not a box, but bytes that were appended
            break
        kinds.add(kind)
        end = start + size
    missing = None if b"moov" in kinds else MissingEnd("its index (moov) did not come")
    return MissingEnd.of(end, content) or missing


def damage_of(content: bytes) -> str | None:
    """Return how much of an ogg, webm, mkv, wma or wmv file is damaged, None where nothing is known to be.

    These kinds have checksums, or elements that must fit into each other. A file of another kind is not looked at.
    """
    if content.startswith(ogg.CAPTURE):
        (damaged, count), part = ogg.damaged_pages(content), "page"
    elif content.startswith(matroska.EBML):
        (damaged, count), part = matroska.damaged_clusters(content), "cluster"
    elif content.startswith(asf.HEADER):
        (damaged, count), part = asf.damaged_packets(content), "packet"
    else:
        return None
    return f"{damaged} of its {counted(count, part)} {'is' if damaged == 1 else 'are'} damaged" if damaged else None
