"""PDF files as pages, read in child processes: what PDFium makes of a file can crash, hang or take all memory."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from handlers.decoding import processes
from handlers.decoding.processes import ChildEnded
from handlers.document_pages import Page, fewer_pages
from handlers.errors import InferenceError, MediaCorrupt, MediaTooLarge, OutOfMemory
from handlers.settings import MediaSettings

_FUNCTION = "handlers.decoding.pdf:read_pages"

_MOST_JUNK = 16 * 1024
"""Bytes before the file that are passed over; what mail servers and scanners put there."""


def start_of_pdf(content: bytes) -> int | None:
    """Return where the PDF in `content` starts, behind junk that readers forgive; None where there is none."""
    start = content.find(b"%PDF-", 0, _MOST_JUNK)
    return None if start < 0 else start


def read_pdf(
    content: bytes, what: str, *, limits: MediaSettings, pages: Any, with_images: bool
) -> list[Page]:
    """Return the pages that `pages` names; see `handlers.document.read_document`. Safe from any thread."""
    if _is_cut_short(content):
        raise MediaCorrupt(f"{what} is cut short: it has no end-of-file mark; send a whole PDF file")
    arguments = {
        "what": what,
        "pages": pages,
        "max_pages": limits.max_pages,
        "max_pixels": limits.max_image_pixels,
        "max_letters": limits.max_document_letters,
        "with_images": with_images,
    }
    allowed = processes.Limits(limits.pdf_processes, limits.pdf_memory_bytes, limits.pdf_timeout_s)
    count = 1
    try:
        with closing(processes.pool.call(_FUNCTION, content, arguments, allowed)) as found:
            count, _ = next(found)
            return [_page(page, block) for page, block in found]
    except ChildEnded as ended:
        raise _as_error(ended, what, limits, fewer_pages(count)) from ended


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


def _as_error(ended: ChildEnded, what: str, limits: MediaSettings, cure: str) -> InferenceError:
    match ended.reason:
        case "time":
            return MediaTooLarge(
                f"{what} takes longer to read than media.pdf_timeout_s allows ({limits.pdf_timeout_s:g} s): {cure}"
            )
        case "memory":
            return MediaTooLarge(
                f"{what} takes more memory to read than media.pdf_memory_bytes allows "
                f"({limits.pdf_memory_bytes} bytes): {cure}"
            )
        case "killed":
            return OutOfMemory(
                f"the process that read {what} was killed from outside, most likely as the machine has no memory "
                "left; try again"
            )
        case "crash":
            return MediaCorrupt(
                f"{what} makes the PDF reader crash ({ended.detail}): it is damaged; save it anew from its program "
                "(print it to PDF) and send that"
            )
