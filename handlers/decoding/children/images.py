"""Decodes images that may take minutes or gigabytes, and the pages of TIFF files.

Runs in a child process (`handlers.decoding.children.child`). Other images are decoded in the caller's process, in a
fraction of the time that a pipe takes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from PIL.TiffImagePlugin import TiffImageFile

from handlers.decoding.document_pages import check_page_sizes, chosen_pages
from handlers.decoding.image_files import (
    as_rgb,
    check_pixels,
    dpi_of,
    left_out_of,
    opened_image,
    paper_of,
    upright,
    upright_rgb,
)
from handlers.errors import InferenceError, MediaCorrupt

_NEW_SUBFILE_TYPE, _COPY_OR_MASK = 254, 0b101
"""Source: TIFF 6.0 section 8, NewSubfileType."""

_MOST_LOOKED_AT = 1000
"""Frames of a TIFF that may be smaller copies or masks; to look at each takes time."""

_STRIP_PIXELS = 4_000_000
"""Pixels per block sent to the parent."""


def image(content: bytes, *, what: str, max_pixels: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield size, dpi and what is left out of an image, then its upright RGB pixels in strips of rows."""
    picture = opened_image(content, what)
    left_out = left_out_of(picture, what)
    check_pixels(what, *picture.size, max_pixels)
    picture = upright(picture, what)
    dpi = dpi_of(picture)
    yield {"size": picture.size, "dpi": dpi and (dpi, dpi), "truncated": left_out}, b""
    paper = paper_of(picture, what)
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        yield {}, as_rgb(strip, what, paper).tobytes()


def tiff_pages(
    content: bytes, *, what: str, pages: Any, max_pages: int, max_pixels: int
) -> Iterator[tuple[Any, bytes]]:
    """Yield the number of pages that `pages` names, then each, and raise, as `children.pdf.read_pages` does."""
    try:
        with TiffImageFile(io.BytesIO(content)) as tiff:
            frames = list(range(tiff.n_frames))
            if len(frames) <= _MOST_LOOKED_AT:
                frames = [frame for frame in frames if _is_page(tiff, frame)] or [0]
            numbers = chosen_pages(pages, len(frames), what=what, max_pages=max_pages)
            yield len(numbers), b""
            wanted = {number: frames[number - 1] for number in numbers}
            check_page_sizes(what, ((number, *tiff.size) for number in _sought(tiff, wanted)), max_pixels)
            for number in _sought(tiff, wanted):
                picture = upright_rgb(tiff, f"{what} page {number}")
                size = {"width": picture.width, "height": picture.height, "stride": 3 * picture.width}
                about: dict[str, Any] = {"number": number, "dpi": dpi_of(picture), "words": None, "layer": []}
                yield {**about, **size}, picture.tobytes()
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on bytes that are damaged
        raise MediaCorrupt(f"{what} is a TIFF that is damaged; send a whole TIFF file") from error


def _is_page(tiff: TiffImageFile, frame: int) -> bool:
    """Tell whether a frame is neither a smaller copy nor the mask of another one."""
    tiff.seek(frame)
    kind = tiff.tag_v2.get(_NEW_SUBFILE_TYPE, 0)
    return not (isinstance(kind, int) and kind & _COPY_OR_MASK)


def _sought(tiff: TiffImageFile, frames: dict[int, int]) -> Iterator[int]:
    """Yield the number of each page while its frame is the one at which the file is."""
    for number, frame in frames.items():
        tiff.seek(frame)
        yield number
