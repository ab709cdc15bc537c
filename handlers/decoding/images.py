"""Images that may take minutes or gigabytes to decode: decoded in child processes.

The others are decoded where they are asked for, in a fraction of the time that the way through a pipe takes.
"""

from __future__ import annotations

import math
from contextlib import closing

from PIL import Image

from handlers.decoding import processes
from handlers.decoding.processes import ChildEnded, Limits

TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_QUICK_STARTS = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")
"""JPEG, PNG, WebP, GIF, BMP: up to the limit of pixels they take seconds at most."""

_QUICK_BYTES = 8 << 20
"""Larger files may hold hundreds of thousands of parts, each of which takes time."""

_MOST_SCANS = 50
"""Scans that a JPEG takes one by one over all its pixels; progressive ones have about ten."""

_WEBP_PIXELS = 25_000_000
"""Larger pictures of WebP take 16 bytes a pixel while they are decoded; others take half of that at most."""

_DECODE = "handlers.decoding.child_functions:image"
_CURE = "save it anew as an ordinary JPEG or PNG"


def is_quick(content: bytes) -> bool:
    """Tell whether an image is surely decoded in seconds and in memory that its pixels bound."""
    if len(content) > _QUICK_BYTES or not content.startswith(_QUICK_STARTS):
        return False
    if content.startswith(b"RIFF"):
        return _webp_pixels(content) <= _WEBP_PIXELS
    return not content.startswith(b"\xff\xd8") or content.count(b"\xff\xda") <= _MOST_SCANS


def _webp_pixels(content: bytes) -> int:
    """Return the pixels that the header of a WebP claims, 0 where it is none.

    Source: RFC 9649 sections 2.5 to 2.7.
    """
    head = content[:30].ljust(30, b"\0")

    def at(start: int, size: int) -> int:
        return int.from_bytes(head[start : start + size], "little")

    match head[12:16]:
        case b"VP8X":
            return (at(24, 3) + 1) * (at(27, 3) + 1)
        case b"VP8L":
            return ((at(21, 4) & 0x3FFF) + 1) * ((at(21, 4) >> 14 & 0x3FFF) + 1)
        case b"VP8 ":
            return (at(26, 2) & 0x3FFF) * (at(28, 2) & 0x3FFF)
    return 0


def read_in_child(content: bytes, what: str, max_pixels: int, limits: Limits) -> Image.Image:
    """Return the image as `handlers.images.decode_file` does, from a child process."""
    arguments = {"what": what, "max_pixels": max_pixels}
    try:
        with closing(processes.pictures.call(_DECODE, content, arguments, limits)) as answers:
            [(about, block)] = answers
    except ChildEnded as ended:
        raise ended.refusal(what, limits, cure=_CURE) from ended
    image = Image.frombytes("RGB", tuple(about["size"]), block)
    if about["dpi"]:
        image.info["dpi"] = tuple(about["dpi"])
    return image


def dpi_of(image: Image.Image) -> float | None:
    """Return the pixels an inch that the file tells of an image, None where it does not, or tells nonsense."""
    told = image.info.get("dpi")
    try:
        dpi = float(told[0]) if isinstance(told, tuple) else math.nan
    except (TypeError, ValueError, ZeroDivisionError, IndexError):
        return None
    return dpi if 1 <= dpi <= 100_000 else None
