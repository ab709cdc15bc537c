"""A PDF, an image or a multi-page TIFF as pages: their words where the file has them, else their picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, TiffImagePlugin

from handlers.document_pages import Page, chosen_pages, page_budget, page_image
from handlers.document_pdf import read_pdf, start_of_pdf
from handlers.errors import InferenceError, InvalidInput, MediaCorrupt
from handlers.images import read_image
from handlers.media import Media
from handlers.option_spec import shown
from handlers.settings import MediaSettings

_TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def read_document(
    value: Any, *, field: str, limits: MediaSettings, pages: Any = None, with_images: bool = False
) -> list[Page]:
    """Return the pages of the document in `value` that `pages` names, in order; all by default.

    `value` is a Media or bytes (PDF, or an image of any format that `read_image` reads; a TIFF may have
    several pages), a PIL image or a numpy array. `pages` is a number from 1, a list of them, or a text such
    as "1-3,5". A PDF page with a text layer gets a picture only `with_images`; every other page has one.

    Raises:
        InvalidInput: permanent; no document, protected by a password, or pages it does not have.
        MediaCorrupt: permanent; bytes that are empty, cut short, without pages, or neither PDF nor image.
        MediaTooLarge: permanent; more pages than `limits.max_pages`, or pictures that together have more
            than `limits.max_image_pixels`; found before anything is rendered.
    """
    match value:
        case Media(content=content, source=source):
            what = f"{field} ({source})"
        case bytes() | bytearray() | memoryview():
            content, what = bytes(value), f"{field} (bytes)"
        case str():
            raise InvalidInput(
                f"{field} is {shown(value)}, which nobody fetched; send s3://, data: or the bytes"
            )
        case _:
            return _single(value, field, limits, pages)
    if not content:
        raise MediaCorrupt(f"{what} is empty (0 bytes); send a whole PDF or image")
    if content.startswith(_TIFF_STARTS):
        return _read_tiff(content, what, limits, pages)
    if (start := start_of_pdf(content)) is not None:
        return read_pdf(content[start:], what, limits=limits, pages=pages, with_images=with_images)
    try:
        return _single(value, field, limits, pages)
    except MediaCorrupt as error:
        raise MediaCorrupt(f"{error.message}, or a PDF") from error


def _single(value: Any, field: str, limits: MediaSettings, pages: Any) -> list[Page]:
    # Read first: of what is no image, nothing can be said about its pages.
    image = read_image(value, field=field, max_pixels=limits.max_image_pixels)
    chosen_pages(pages, 1, what=field, max_pages=limits.max_pages)
    return [page_image(1, image)]


def _read_tiff(content: bytes, what: str, limits: MediaSettings, pages: Any) -> list[Page]:
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(content)) as tiff:
            numbers = chosen_pages(pages, tiff.n_frames, what=what, max_pages=limits.max_pages)
            return _read_frames(tiff, numbers, what, limits)
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on bytes that are damaged
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise MediaCorrupt(f"{what} is no readable TIFF: {reason}; send a whole TIFF file") from error


def _read_frames(tiff: Image.Image, numbers: Sequence[int], what: str, limits: MediaSettings) -> list[Page]:
    found: list[Page] = []
    budget = page_budget(what, limits.max_image_pixels)
    for number in numbers:
        tiff.seek(number - 1)
        budget.spend(f"page {number}", tiff.width, tiff.height)
        image = read_image(tiff, field=f"{what} page {number}", max_pixels=limits.max_image_pixels)
        found.append(page_image(number, image))
    return found
