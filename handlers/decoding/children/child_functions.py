"""Functions that decode images in child processes: generators of (value, block of bytes) pairs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from PIL.TiffImagePlugin import TiffImageFile

from handlers.decoding import images
from handlers.decoding.children.images import dpi_of
from handlers.decoding.document_pages import chosen_pages, page_budget
from handlers.errors import InferenceError, MediaCorrupt

_NEW_SUBFILE_TYPE, _COPY_OR_MASK = 254, 0b101
"""Source: TIFF 6.0 section 8, NewSubfileType."""

_MOST_LOOKED_AT = 1000
"""Frames of a TIFF that may be smaller copies or masks; to look at each takes time."""

_STRIP_PIXELS = 4_000_000
"""Pixels per block sent to the parent."""


def image(content: bytes, *, what: str, max_pixels: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield size, dpi and what is left out of an image, then its RGB pixels in strips of rows."""
    picture, left_out = images.decoded_file(content, what, max_pixels)
    dpi = dpi_of(picture)
    yield {"size": picture.size, "dpi": dpi and (dpi, dpi), "truncated": left_out}, b""
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        yield {}, images.as_rgb(strip, what).tobytes()


def tiff_pages(
    content: bytes, *, what: str, pages: Any, max_pages: int, max_pixels: int
) -> Iterator[tuple[Any, bytes]]:
    """Yield the number of pages that `pages` names, then each as `handlers.decoding.children.pdf.read_pages` does.

    Raises:
        InvalidInput, MediaCorrupt, MediaTooLarge: permanent; see `handlers.decoding.document.read_document`.
    """
    try:
        with TiffImageFile(io.BytesIO(content)) as tiff:
            frames = list(range(tiff.n_frames))
            if len(frames) <= _MOST_LOOKED_AT:
                frames = [frame for frame in frames if _is_page(tiff, frame)] or [0]
            numbers = chosen_pages(pages, len(frames), what=what, max_pages=max_pages)
            yield len(numbers), b""
            yield from _pages(tiff, {number: frames[number - 1] for number in numbers}, what, max_pixels)
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on bytes that are damaged
        raise MediaCorrupt(f"{what} is a TIFF that is damaged; send a whole TIFF file") from error


def _is_page(tiff: TiffImageFile, frame: int) -> bool:
    """Tell whether a frame is neither a smaller copy nor the mask of another one."""
    tiff.seek(frame)
    kind = tiff.tag_v2.get(_NEW_SUBFILE_TYPE, 0)
    return not (isinstance(kind, int) and kind & _COPY_OR_MASK)


def _pages(
    tiff: TiffImageFile, frames: dict[int, int], what: str, max_pixels: int
) -> Iterator[tuple[dict[str, Any], bytes]]:
    budget = page_budget(what, max_pixels)
    for number, frame in frames.items():
        tiff.seek(frame)
        budget.spend(f"page {number}", tiff.width, tiff.height)
        picture = images.read_image(tiff, field=f"{what} page {number}", max_pixels=max_pixels)
        page = {"number": number, "width": picture.width, "height": picture.height, "dpi": dpi_of(picture)}
        yield {**page, "words": None, "layer": [], "stride": 3 * picture.width}, picture.tobytes()
