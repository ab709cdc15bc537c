"""Pages for an engine, the pages that a request names, and the budget of their pixels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from handlers.decoding.pixel_limits import check_sizes
from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge
from handlers.options.spec import shown

if TYPE_CHECKING:
    from PIL import Image

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_LAST_NUMBER = 999_999_999


class Word(TypedDict):
    """A word of a text layer; one that is broken at the end of its line is two, the first with its hyphen."""

    text: str
    box: Sequence[int]
    """Left, top, right, bottom in pixels of the page."""
    polygon: NotRequired[list[list[int]]]
    """Corners [x, y], clockwise from the top left of the text, where it does not run level to the right."""


class Page(TypedDict):
    """One page; read from its `words` where it has them, else from its image."""

    number: int
    """From 1."""
    width: int
    height: int
    """In pixels, with or without an image."""
    dpi: float | None
    """Pixels an inch, None where the file does not say."""
    image: Image.Image | None
    """None where no engine needs it."""
    words: list[Word] | None
    """The words of its text layer, None where the file has none or has only `layer`."""
    layer: list[Word]
    """The words of a text layer that is only a small part of the page's text: a stamp on a scan."""
    unread: NotRequired[Sequence[int] | None]
    """The box of the pictures that `layer` does not cover, where they are a small part of the page; `image` is of that
    part alone, unless all pages have images."""
    damage: NotRequired[list[str]]
    """What of the page is damaged in its file, so that only a part of it was read."""


def told_damage(pages: Sequence[Page], field: str) -> str | None:
    """Return what of the pages was read only in part, None where all is whole."""
    found: dict[str, list[str]] = {}
    for page in pages:
        for part in page.get("damage", []):
            found.setdefault(part, []).append(str(page["number"]))
    parts = [f"{part} of page{'s' * (len(numbers) > 1)} {', '.join(numbers)}" for part, numbers in found.items()]
    return f"{field} is damaged and was read only in part: {'; '.join(parts)}" if parts else None


def check_page_sizes(what: str, sizes: Iterable[tuple[int, int, int]], max_pixels: int) -> None:
    """Refuse the images of pages, told by their number, width and height, as `check_sizes` does."""
    check_sizes(
        what,
        ((f"page {number}", width, height) for number, width, height in sizes),
        max_pixels,
        cure="name fewer pages in data.pages",
        cure_of_one="save that page smaller, or leave it out of data.pages",
    )


def fewer_pages(count: int) -> str:
    """Return the advice for a document whose `count` pages are too much, to follow a colon."""
    renew = "save the file again from its program (print it to PDF)"
    return renew if count < 2 else f"name fewer pages in data.pages, or {renew}"


def check_pages(pages: Any) -> None:
    """Refuse what can name no pages of any document, as `chosen_pages` does."""
    if pages is not None:
        list(_spans(pages))


def chosen_pages(pages: Any, count: int, *, what: str, max_pages: int) -> list[int]:
    """Return the page numbers that `pages` names in a document of `count` pages, ascending, each once.

    Raises:
        InvalidInput: permanent; not a number, list or ranges, or a page the document does not have.
        MediaCorrupt: permanent; the document has no pages at all.
        MediaTooLarge: permanent; more than `max_pages`.
    """
    if count < 1:
        raise MediaCorrupt(f"{what} has no pages; send a document with at least one")
    spans = [(1, count)] if pages is None else list(_spans(pages))
    for first, last in spans:
        if first < 1 or last > count or first > last:
            named = str(first) if first == last else f"{first}-{last}"
            has = "1 page" if count == 1 else f"pages 1-{count}"
            raise InvalidInput(f"data.pages names {named}; {what} has {has}")
    numbers = sorted({number for first, last in spans for number in range(first, last + 1)})
    if len(numbers) > max_pages:
        asked = f"has {count} pages" if pages is None else f"was asked for {len(numbers)} pages"
        raise MediaTooLarge(
            f'{what} {asked}; media.max_pages allows {max_pages}: name some in data.pages, as "1-{max_pages}"'
        )
    return numbers


def _spans(pages: Any) -> Iterator[tuple[int, int]]:
    """Yield first and last page of each part of `pages`."""
    parts = pages.split(",") if isinstance(pages, str) else pages if isinstance(pages, list | tuple) else [pages]
    for part in parts:
        if type(part) is int and abs(part) <= _LAST_NUMBER:
            yield part, part
        elif isinstance(pages, str) and (found := _RANGE.fullmatch(part.strip())):
            yield int(found[1]), int(found[2] or found[1])
        else:
            break
    else:
        if parts:
            return
    raise InvalidInput(
        f'data.pages is {shown(pages)}; it must be a page number from 1, a list of them, or ranges as "1-3,5"'
    )
