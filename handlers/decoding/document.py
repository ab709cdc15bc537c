"""Splits a PDF, an image or a multi-page TIFF into pages: words where the file has them, else images."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

from PIL import Image

from handlers.decoding.children import processes
from handlers.decoding.children.processes import ChildEnded, Limits
from handlers.decoding.document_pages import Page, check_pages, chosen_pages, fewer_pages
from handlers.decoding.image_files import dpi_of
from handlers.decoding.images import read_image
from handlers.errors import MediaCorrupt
from handlers.file_kinds import Family, kind_of, misplaced, refusal
from handlers.media import encoded_file
from handlers.settings import MediaSettings

_TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")
_WANTED: tuple[Family, ...] = ("document", "image")
_CURE = "send a whole PDF, TIFF or other image"

_PDF = "handlers.decoding.children.pdf:read_pages"
_TIFF = "handlers.decoding.children.images:tiff_pages"
"""Decoders of TIFF run in child processes: some files make them crash, hang or take all memory."""

_MOST_JUNK = 16 * 1024
"""How many bytes before a PDF are skipped, as readers do; mail servers and scanners add some."""

_CONCATENATED = re.compile(rb"%%EOF\s*%PDF-")


def read_document(
    value: Any, *, field: str, limits: MediaSettings, pages: Any = None, with_images: bool = False
) -> list[Page]:
    """Return the pages of the document in `value` that `pages` names, in order; all by default.

    `value` is a Media or bytes (PDF, or an image of any format that `read_image` reads; a TIFF may have
    several pages), a PIL image or a numpy array. `pages` is a number from 1, a list of them, or a text such
    as "1-3,5". A PDF page with a text layer gets a picture only `with_images`; every other page has one.
    Where pictures that the text layer does not cover are 5 % of a page or more, these are to be read too: `unread` says
    where, and from 25 % on the whole page is read as a picture. Pictures below 40 pixels an inch hold no letters.

    Raises:
        InvalidInput: permanent; no document, protected by a password, or pages it does not have.
        MediaCorrupt: permanent; bytes that are empty, cut short, without pages, or neither PDF nor image.
        MediaTooLarge: permanent; more pages than `limits.max_pages`, or pictures that together have more
            than `limits.max_image_pixels`; found before anything is rendered.
    """
    if (file := encoded_file(value, field, besides=object)) is None:
        return _single(value, field, limits, pages)
    content, what = file
    if not content:
        raise MediaCorrupt(f"{what} is empty (0 bytes); send a whole PDF or image")
    if content.startswith(_TIFF_STARTS):
        children = limits.document_children.for_images(limits.max_image_pixels)
        return _pages(_TIFF, content, what, limits, children, {"pages": pages})
    if not content.startswith(_PICTURE_STARTS):  # in which a PDF may be embedded
        if (start := content.find(b"%PDF-", 0, _MOST_JUNK)) >= 0:
            content = content[start:]
            if _is_cut_short(content):
                raise MediaCorrupt(f"{what} is cut short: it has no end-of-file mark; send a whole PDF file")
            if _CONCATENATED.search(content):  # readers show only the last
                raise MediaCorrupt(f"{what} is several concatenated PDFs; send one request for each")
            more = {"pages": pages, "max_letters": limits.max_document_letters, "with_images": with_images}
            return _pages(_PDF, content, what, limits, limits.document_children, more)
        if kind_of(content) is None or misplaced(content, wanted=_WANTED, cure=_CURE):
            raise MediaCorrupt(f"{what} is {refusal(content, wanted=_WANTED, cure=_CURE)}")
    try:
        return _single(value, field, limits, pages)
    except MediaCorrupt as error:
        raise MediaCorrupt(f"{error.message}, or a PDF") from error


def _single(value: Any, field: str, limits: MediaSettings, pages: Any) -> list[Page]:
    # Read first: pages of a file that is not an image cannot be checked.
    image = read_image(value, field=field, limits=limits)
    chosen_pages(pages, 1, what=field, max_pages=limits.max_pages)
    width, height = image.size
    dpi = dpi_of(image)
    return [Page(number=1, width=width, height=height, dpi=dpi, image=image, words=None, layer=[])]


def _pages(
    function: str, content: bytes, what: str, limits: MediaSettings, children: Limits, more: dict[str, Any]
) -> list[Page]:
    check_pages(more["pages"])  # here: not every value can be sent to a child
    arguments = {"what": what, "max_pages": limits.max_pages, "max_pixels": limits.max_image_pixels, **more}
    count = 1
    try:
        with closing(processes.documents.call(function, content, arguments, children)) as found:
            count, _ = next(found)
            return [_page(page, block) for page, block in found]
    except ChildEnded as ended:
        raise ended.refusal(what, children, cure=fewer_pages(count)) from ended


def _page(page: dict[str, Any], block: bytearray) -> Page:
    stride, size = page.pop("stride"), page.pop("image_size", (page["width"], page["height"]))
    image = Image.frombytes("RGB", size, block, "raw", "RGB", stride) if block else None
    return {**page, "image": image}  # type: ignore[typeddict-item]


def _is_cut_short(content: bytes) -> bool:
    """Tell whether the end is missing: no end mark, or parts of a file after the last one.

    A file that was changed has a mark after each change, and a web-optimized one has one near its start.
    """
    mark = content.rfind(b"%%EOF")
    return mark < 0 or b" obj" in content[mark:]
