"""Reads PDF files by PDFium: the words of their text layers with their places, and images of other pages.

Runs in a child process (`handlers.decoding.children.child`), in one thread: PDFium keeps state for the whole process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from pypdfium2 import PdfBitmap, PdfDocument, PdfiumError, PdfPage, PdfTextPage, raw  # type: ignore[import-untyped]

from handlers.decoding.children.pdf_damage import PdfDamage
from handlers.decoding.children.pdf_layers import has_layers_and_units, hide_layers, hide_notes
from handlers.decoding.children.pdf_words import unread_pictures, words_of
from handlers.decoding.document_pages import check_page_sizes, chosen_pages, fewer_pages
from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge

PIXELS_PER_INCH = 150
"""Resolution of images and boxes: letters of 10 points are 20 pixels high."""

_SCALE = PIXELS_PER_INCH / 72
"""Pixels a point."""


def read_pages(
    content: bytes, *, what: str, pages: Any, max_pages: int, max_pixels: int, max_letters: int, with_images: bool
) -> Iterator[tuple[Any, memoryview]]:
    """Yield the number of pages that `pages` names, then each as `handlers.decoding.document_pages.Page` has it.

    Instead of `image` a page has `stride` and `image_size`, and its block is a picture of RGB rows of so many bytes; of
    a page without a picture the block is empty. It raises what `handlers.decoding.document.read_document` does.
    """
    has_layers, has_units = has_layers_and_units(content)
    dpi = None if has_units else float(PIXELS_PER_INCH)  # PDFium does not tell the unit of a page
    with _opened(content, what) as pdf:
        numbers = chosen_pages(pages, len(pdf), what=what, max_pages=max_pages)
        yield len(numbers), memoryview(b"")
        found, letters = [], 0
        for number in numbers:
            with _page(pdf, number, what, has_layers=has_layers) as opened, closing(opened.get_textpage()) as text:
                letters += text.count_chars()
                if letters > max_letters:
                    raise MediaTooLarge(
                        f"{what} has more letters by page {number} than media.max_document_letters allows "
                        f"({max_letters}): {fewer_pages(len(numbers))}"
                    )
                found.append({**_with_words(opened, text), "number": number, "dpi": dpi})
        drawn = {
            page["number"]: (not with_images and page["unread"]) or (0, 0, page["width"], page["height"])
            for page in found
            if with_images or page["words"] is None
        }
        sizes = ((number, right - left, bottom - top) for number, (left, top, right, bottom) in drawn.items())
        check_page_sizes(what, sizes, max_pixels)
        damage = PdfDamage(content)
        for page in found:
            number = page["number"]
            page["damage"] = damage.of_page(number, is_drawn=number in drawn)
            if number not in drawn:
                yield page, memoryview(b"")
                continue
            with _page(pdf, number, what) as opened, closing(_drawn(opened, page, drawn[number])) as bitmap:
                size = {"image_size": (bitmap.width, bitmap.height), "stride": bitmap.stride}
                yield {**page, **size}, memoryview(bitmap.buffer).cast("B")


@contextmanager
def _opened(content: bytes, what: str) -> Iterator[PdfDocument]:
    try:
        pdf = PdfDocument(content)
    except PdfiumError as error:
        # A file without pages leaves the error of an earlier file standing.
        if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY) and b"/Encrypt" in content:
            raise InvalidInput(
                f"{what} is a PDF that a password protects; save it without one and send that"
            ) from error
        raise MediaCorrupt(
            f"{what} is a PDF that has no pages, or that is too damaged to find them; save it again from its program "
            "(print it to PDF) and send that"
        ) from error
    with closing(pdf):
        if pdf.get_formtype() == raw.FORMTYPE_XFA_FULL:
            raise InvalidInput(
                f"{what} is a PDF whose pages are an XFA form, which is not read; open it in a program that shows it, "
                "print it to PDF and send that"
            )
        pdf.init_forms()
        yield pdf


@contextmanager
def _page(pdf: PdfDocument, number: int, what: str, *, has_layers: bool = False) -> Iterator[PdfPage]:
    try:
        with closing(pdf[number - 1]) as page:
            hide_notes(page)
            # Fields and notes are visible to a reader, but part of PDFium's text only after this.
            raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY)
        with closing(pdf[number - 1]) as page:
            if has_layers:
                hide_layers(page)
            yield page
    except PdfiumError as error:
        raise MediaCorrupt(f"{what} has a page {number} that is broken; send a whole PDF file") from error


def _with_words(page: PdfPage, text: PdfTextPage) -> dict[str, Any]:
    width, height = (max(1, math.ceil(side * _SCALE)) for side in page.get_size())
    words = words_of(page, text, width, height)
    unread = None if words is None else unread_pictures(page, text, words, width, height)
    return {
        "width": width,
        "height": height,
        "words": None if unread else words,
        "layer": words if unread else [],
        "unread": None if unread == (0, 0, width, height) else unread,
        "stride": 0,
    }


def _drawn(opened: PdfPage, page: dict[str, Any], part: Sequence[int]) -> PdfBitmap:
    """Return the image of a part of a page."""
    left, top, right, bottom = part
    cut_off = (left, page["height"] - bottom, page["width"] - right, top)
    # Rounded up to pixels again.
    crop = tuple((pixels - 0.5) / _SCALE for pixels in cut_off)
    return opened.render(scale=_SCALE, crop=crop, rev_byteorder=True)
