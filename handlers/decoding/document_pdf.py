"""PDF and TIFF files as pages, read in child processes: some make their decoder crash, hang or take all memory."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from handlers.decoding.children import processes
from handlers.decoding.children.processes import ChildEnded, Limits
from handlers.decoding.document_pages import Page, fewer_pages
from handlers.errors import MediaCorrupt
from handlers.settings import MediaSettings

_MOST_JUNK = 16 * 1024
"""Bytes before the file that are passed over; what mail servers and scanners put there."""


def start_of_pdf(content: bytes) -> int | None:
    """Return where the PDF in `content` starts, behind junk that readers forgive; None where there is none."""
    start = content.find(b"%PDF-", 0, _MOST_JUNK)
    return None if start < 0 else start


def read_pdf(
    content: bytes, what: str, *, limits: MediaSettings, pages: Any, with_images: bool
) -> list[Page]:
    """Return the pages that `pages` names; see `handlers.decoding.document.read_document`. Safe from any thread."""
    if _is_cut_short(content):
        raise MediaCorrupt(f"{what} is cut short: it has no end-of-file mark; send a whole PDF file")
    more = {"max_letters": limits.max_document_letters, "with_images": with_images}
    function = "handlers.decoding.children.pdf:read_pages"
    return _pages(function, content, what, limits, limits.document_children, {"pages": pages, **more})


def read_tiff(content: bytes, what: str, *, limits: MediaSettings, pages: Any) -> list[Page]:
    """Return the pages that `pages` names; see `handlers.decoding.document.read_document`. Safe from any thread."""
    children = limits.document_children.for_images(limits.max_image_pixels)
    return _pages(
        "handlers.decoding.children.child_functions:tiff_pages",
        content,
        what,
        limits,
        children,
        {"pages": pages},
    )


def _pages(
    function: str, content: bytes, what: str, limits: MediaSettings, children: Limits, more: dict[str, Any]
) -> list[Page]:
    arguments = {"what": what, "max_pages": limits.max_pages, "max_pixels": limits.max_image_pixels, **more}
    count = 1
    try:
        with closing(processes.documents.call(function, content, arguments, children)) as found:
            count, _ = next(found)
            return [_page(page, block) for page, block in found]
    except ChildEnded as ended:
        raise ended.refusal(what, children, cure=fewer_pages(count)) from ended


def _page(page: dict[str, Any], block: bytearray) -> Page:
    from PIL import Image

    stride, size = page.pop("stride"), (page["width"], page["height"])
    image = Image.frombytes("RGB", size, block, "raw", "RGB", stride) if block else None
    return {**page, "image": image}  # type: ignore[typeddict-item]


def _is_cut_short(content: bytes) -> bool:
    """Tell whether the end is missing: no mark of it, or parts of a file behind the last one.

    A file that was changed has a mark after each change, and one made for the web has one near its start.
    """
    mark = content.rfind(b"%%EOF")
    return mark < 0 or b" obj" in content[mark:]
