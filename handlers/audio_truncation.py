"""Recordings that lost their end, which decoders read without complaint as shorter ones."""

from __future__ import annotations

import struct

_UNKNOWN_SIZE = 0x7FFF_0000
"""RIFF sizes from here on are what writers to a pipe put where they cannot go back: no claim at all."""


def missing_end(content: bytes) -> str | None:
    """Return what is missing of a wav, ogg or mp3 file that ends too early, else None.

    Source: Multimedia Programming Interface and Data Specifications 1.0 (RIFF); RFC 3533 section 6 (Ogg);
        http://gabriel.mp3-tech.org/mp3infotag.html (the Xing tag of MP3).
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        claimed = struct.unpack_from("<I", content, 4)[0] + 8
        if len(content) + 1 < claimed < _UNKNOWN_SIZE:
            return f"its header promises {claimed} bytes and {len(content)} came"
    if content[:4] == b"OggS":
        return _missing_of_ogg(content)
    return _missing_of_mp3(content)


def _missing_of_ogg(content: bytes) -> str | None:
    start = content.rfind(b"OggS")
    header_end = start + 27
    if len(content) < header_end:
        return "its last page has no whole header"
    segments = content[header_end : header_end + content[header_end - 1]]
    page_end = header_end + content[header_end - 1] + sum(segments)
    if page_end > len(content):
        return f"its last page promises {page_end} bytes and {len(content)} came"
    return None


def _missing_of_mp3(content: bytes) -> str | None:
    start = 0
    if content[:3] == b"ID3" and len(content) > 10:
        sizes = content[6:10]
        start = 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
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
    if claimed * 0.99 > len(content) - start:
        return f"its header promises {claimed} bytes and {len(content) - start} came"
    return None
