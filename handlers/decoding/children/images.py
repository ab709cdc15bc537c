"""Decodes images in child processes that may take minutes or gigabytes.

Other images are decoded in the caller's process, in a fraction of the time that a pipe takes.
"""

from __future__ import annotations

import math
from contextlib import closing

from PIL import ExifTags, Image

from handlers.decoding.children import processes
from handlers.decoding.children.processes import ChildEnded, Limits

TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_QUICK_STARTS = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")
"""JPEG, PNG, WebP, GIF, BMP: within the limit of pixels they take seconds at most."""

_QUICK_BYTES = 8 << 20
"""Larger files may hold hundreds of thousands of parts, each of which takes time."""

_MOST_SCANS = 50
"""Scans that a JPEG takes one by one over all its pixels; progressive ones have about ten."""

_MOST_MARKERS = 50_000
"""Segments of a JPEG, each of which takes some microseconds; so many restart markers are rare."""

_QUICK_PIXELS = 25_000_000
"""Larger images take seconds, and up to 16 bytes a pixel."""

_LEAST_DPI, _MOST_DPI = 10, 20_000
"""Beyond, what a file declares is a place-holder: 1 where a program knows no better."""

_DECODE = "handlers.decoding.children.child_functions:image"
_CURE = "save it again as an ordinary JPEG or PNG"


def is_quick(content: bytes) -> bool:
    """Tell whether an image of few pixels is surely decoded in seconds."""
    if len(content) > _QUICK_BYTES or not content.startswith(_QUICK_STARTS):
        return False
    if not content.startswith(b"\xff\xd8"):
        return True
    markers = content.count(b"\xff") - content.count(b"\xff\0")
    return markers <= _MOST_MARKERS and content.count(b"\xff\xda") <= _MOST_SCANS


def are_few(width: int, height: int) -> bool:
    """Tell whether so many pixels are decoded in seconds and in some hundred megabytes."""
    return width * height <= _QUICK_PIXELS


def read_in_child(content: bytes, what: str, max_pixels: int, limits: Limits) -> Image.Image:
    """Return the image as `handlers.decoding.images.read_image` does, from a child process."""
    arguments = {"what": what, "max_pixels": max_pixels}
    limits = limits.for_images(max_pixels)
    try:
        with closing(processes.pictures.call(_DECODE, content, arguments, limits)) as answers:
            about, _ = next(answers)
            image, top = Image.new("RGB", tuple(about["size"])), 0
            for _, block in answers:
                rows = len(block) // (3 * image.width)
                image.paste(Image.frombytes("RGB", (image.width, rows), block), (0, top))
                top += rows
    except ChildEnded as ended:
        raise ended.refusal(what, limits, cure=_CURE) from ended
    image.info |= {name: value for name, value in about.items() if name != "size" and value}
    return image


def dpi_of(image: Image.Image) -> float | None:
    """Return the pixels per inch in the file, None where there are none, invalid ones or two different values."""
    try:
        has_jfif = image.format not in ("JPEG", "MPO") or image.info.get("jfif_unit")
        if not has_jfif and ExifTags.Base.XResolution not in image.getexif():
            return None  # the 72 is Pillow's own
        across, down = map(float, image.info["dpi"])
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the pixels are whole, whatever stands in the place of a resolution
        return None
    is_likely = _LEAST_DPI <= across <= _MOST_DPI
    return across if is_likely and math.isclose(across, down, rel_tol=0.02) else None
