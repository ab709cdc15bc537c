"""PDF files: the words of their text layers with their places, and pictures of pages that have none."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from handlers.document_pages import Page, chosen_pages, page_budget
from handlers.document_words import words_of
from handlers.errors import InvalidInput, MediaCorrupt
from handlers.settings import MediaSettings

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage  # type: ignore[import-untyped]

PIXELS_PER_INCH = 150
"""Of pictures and boxes: 10 point letters are 20 pixels high."""

_SCALE = PIXELS_PER_INCH / 72
"""Pixels a point."""

_TAIL_BYTES = 2048
"""The end-of-file mark stands in here, whatever a mail server or a viewer has added behind it."""

_CURE = "send a whole PDF file"

_pdfium = threading.Lock()
"""PDFium keeps state for the whole process: every call into it, closing included, holds this lock."""


def is_pdf(content: bytes) -> bool:
    """Tell whether `content` starts as a PDF does, within the junk that readers forgive."""
    return b"%PDF-" in content[:1024]


def read_pdf(
    content: bytes, what: str, *, limits: MediaSettings, pages: Any, with_images: bool
) -> list[Page]:
    """Return the pages that `pages` names; see `handlers.document.read_document`. Safe from any thread."""
    if b"%%EOF" not in content[-_TAIL_BYTES:]:
        raise MediaCorrupt(f"{what} is cut short: it has no end-of-file mark; {_CURE}")
    with _opened(content, what) as pdf:
        with _pdfium:
            count = len(pdf)
        numbers = chosen_pages(pages, count, what=what, max_pages=limits.max_pages)
        found = [_with_words(pdf, number, what) for number in numbers]
        pictured = [page for page in found if with_images or page["words"] is None]
        budget = page_budget(what, limits.max_image_pixels)
        for page in pictured:
            budget.spend(f"page {page['number']}", page["width"], page["height"])
        for page in pictured:
            picture = _picture(pdf, page["number"], what)
            page["image"] = picture
            page["width"], page["height"] = picture.size
        return found


@contextmanager
def _opened(content: bytes, what: str) -> Iterator[PdfDocument]:
    from pypdfium2 import PdfDocument, PdfiumError
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY  # type: ignore[import-untyped]

    with _pdfium:
        try:
            pdf = PdfDocument(content)
        except PdfiumError as error:
            # A file without pages leaves the error of an earlier file standing.
            if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY) and b"/Encrypt" in content:
                raise InvalidInput(
                    f"{what} is protected by a password; save it without one and send that"
                ) from error
            raise MediaCorrupt(f"{what} is no readable PDF, or has no pages; {_CURE}") from error
    try:
        with _pdfium:
            pdf.init_forms()
        yield pdf
    finally:
        with _pdfium:
            pdf.close()


@contextmanager
def _page(pdf: PdfDocument, number: int, what: str) -> Iterator[PdfPage]:
    """Hold one page, and the lock."""
    from pypdfium2 import PdfiumError

    with _pdfium:
        try:
            with closing(pdf[number - 1]) as page:
                yield page
        except PdfiumError as error:
            raise MediaCorrupt(f"{what} has a page {number} that is broken; {_CURE}") from error


def _with_words(pdf: PdfDocument, number: int, what: str) -> Page:
    with _page(pdf, number, what) as page:
        width, height = (max(1, math.ceil(side * _SCALE)) for side in page.get_size())
        words = words_of(page, width, height)
    return {"number": number, "width": width, "height": height, "image": None, "words": words}


def _picture(pdf: PdfDocument, number: int, what: str) -> Image.Image:
    with _page(pdf, number, what) as page, closing(page.render(scale=_SCALE)) as bitmap:
        picture: Image.Image = bitmap.to_pil()
        return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
