"""Reads how long a sound or video is by the header of an avi, flv, wma or wmv: decoders of these read less of a damaged
file and do not tell. What FFmpeg gives as their length may be an estimate.

Source: Microsoft, AVI RIFF File Reference (AVISTREAMHEADER); Adobe Flash Video File Format Specification 10.1, E.5;
    Advanced Systems Format (ASF) Specification 1.20.03, section 3.2.
"""

from __future__ import annotations

import struct

from handlers.decoding import asf

_HEADERS = 1 << 16
"""Bytes at the beginning of a file that hold its headers."""
_STREAM = b"strh\x38\0\0\0"
_DURATION = b"\0\x08duration\0"


def declared_s(content: bytes, stream: int, count: int) -> float | None:
    """Return the length of stream number `stream`, from 0, of `count`, in seconds; None where the header has none, or
    perhaps that of another stream."""
    if content[:4] == b"RIFF" and content[8:12] == b"AVI ":
        return _of_avi(content[:_HEADERS], stream)
    if count > 1:
        return None
    if content.startswith(asf.HEADER):
        return asf.length_s(content)
    at = content.find(_DURATION, 0, _HEADERS) + len(_DURATION)
    if content.startswith(b"FLV") and len(_DURATION) <= at <= len(content) - 8:
        return float(struct.unpack_from(">d", content, at)[0]) or None
    return None


def is_short(there_s: float, declared_s: float | None) -> bool:
    """Return whether so much less is there than declared that it is a loss, and not an inexact header."""
    return declared_s is not None and there_s < declared_s * 0.98 - 0.3


def _of_avi(headers: bytes, stream: int) -> float | None:
    fields = headers.split(_STREAM)[1:][stream : stream + 1]
    if not fields or len(fields[0]) < 36:
        return None
    scale, rate, _, length = struct.unpack_from("<20xIIII", fields[0])
    return length * scale / rate if rate and length else None
