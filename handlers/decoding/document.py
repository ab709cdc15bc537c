"""A PDF, an image or a multi-page TIFF as pages: their words where the file has them, else their picture."""

from __future__ import annotations

from typing import Any

from handlers.decoding.children.images import TIFF_STARTS, dpi_of
from handlers.decoding.document_pages import Page, chosen_pages, page_image
from handlers.decoding.document_pdf import read_pdf, read_tiff, start_of_pdf
from handlers.decoding.images import read_image
from handlers.errors import InvalidInput, MediaCorrupt
from handlers.file_kinds import Family, kind_of, misplaced, unread
from handlers.media import Media
from handlers.options.spec import shown
from handlers.settings import MediaSettings

_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")
_WANTED: tuple[Family, ...] = ("document", "image")
_CURE = "send a whole PDF, TIFF or other image"


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
    if content.startswith(TIFF_STARTS):
        return read_tiff(content, what, limits=limits, pages=pages)
    if not content.startswith(_PICTURE_STARTS):  # in which a PDF may be embedded
        if (start := start_of_pdf(content)) is not None:
            return read_pdf(content[start:], what, limits=limits, pages=pages, with_images=with_images)
        told = misplaced(content, wanted=_WANTED, cure=_CURE)
        if told or kind_of(content) is None:
            raise MediaCorrupt(f"{what} is {told or unread(content, wanted=_WANTED, cure=_CURE)}")
    try:
        return _single(value, field, limits, pages)
    except MediaCorrupt as error:
        raise MediaCorrupt(f"{error.message}, or a PDF") from error


def _single(value: Any, field: str, limits: MediaSettings, pages: Any) -> list[Page]:
    # Read first: of what is not an image, nothing can be said about its pages.
    image = read_image(value, field=field, max_pixels=limits.max_image_pixels, children=limits.children)
    chosen_pages(pages, 1, what=field, max_pages=limits.max_pages)
    return [page_image(1, image, dpi_of(image))]
