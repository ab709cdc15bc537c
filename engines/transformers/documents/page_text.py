"""The text of a page of a document: from its text layer, from its picture, or from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from engines.transformers.documents.ocr_pages import PageText
from engines.transformers.documents.reading_order import along_the_text, reading_order
from engines.transformers.documents.text_lines import Line, lines_of, without_breaks
from handlers.decoding.document_pages import Page, Word

_SAME_PLACE = 0.5
"""A line read from the image is the same as one of the text layer where this part of it overlaps."""


@dataclass(frozen=True, slots=True)
class ReadPage:
    """A page with its text, in the form of a result, and its words in reading order."""

    page: Page
    text: PageText
    words: list[Word]
    source: Literal["text_layer", "ocr", "mixed"]
    finish_reason: str | None = None
    has_unread_pictures: bool = False

    def result(self) -> dict[str, Any]:
        """Return the page in the form of a result."""
        result: dict[str, Any] = {name: self.page[name] for name in ("number", "width", "height", "dpi")}
        result |= {"text_source": self.source, "text": self.text.text, "regions": self.text.lines}
        if self.finish_reason is not None:
            result["finish_reason"] = self.finish_reason
        if self.has_unread_pictures:
            result["unread_pictures"] = True
        return result


def read_from_layer(page: Page, words: Sequence[Word]) -> ReadPage:
    """Return the page with the text of its text layer."""
    text, in_order = _of_layer(words)
    return ReadPage(page, text, in_order, "text_layer", has_unread_pictures=page["words"] is None)


def image_to_read(page: Page) -> Image.Image | None:
    """Return the image of a page, or of the part of it that its text layer does not cover."""
    image, part = page["image"], page.get("unread")
    if image is None or part is None or image.size != (page["width"], page["height"]):
        return image
    left, top, right, bottom = part
    return image.crop((left, top, right, bottom))


def read_from_picture(page: Page, read: PageText) -> ReadPage:
    """Return the page with the text read from its image, joined with that of its text layer."""
    if not page["layer"]:
        return ReadPage(page, read, _words_in(read), "ocr")
    printed, in_order = _of_layer(page["layer"])
    places = [line["box"] for line in printed.lines]
    part = page.get("unread")
    lines = read.lines if part is None else [_moved(line, *part[:2]) for line in read.lines]
    added = [line for line in lines if _overlap(line["box"], places) < _SAME_PLACE]
    if part is not None and not added:
        return ReadPage(page, printed, in_order, "text_layer")
    both = _of_both(printed, added)
    return ReadPage(page, both, _words_in(both), "mixed")


def _moved(line: dict[str, Any], left: int, top: int) -> dict[str, Any]:
    """Return a line that was read in a part of a page, at its place on the page."""
    moved = {**line, "box": [side + by for side, by in zip(line["box"], (left, top, left, top), strict=True)]}
    if "polygon" in line:
        moved["polygon"] = [[x + left, y + top] for x, y in line["polygon"]]
    return moved


def transcribed(page: Page, transcript: str, finish_reason: str) -> ReadPage:
    """Return the page with the text that a model generated, and what that lacks of the text layer."""
    if not page["layer"]:
        return ReadPage(page, PageText(transcript, []), [], "ocr", finish_reason)
    printed, _ = _of_layer(page["layer"])
    said = " ".join(transcript.split())
    lacking = [line["text"] for line in printed.lines if line["text"] not in said]
    both = PageText("\n".join([transcript, *lacking]), printed.lines)
    return ReadPage(page, both, _words_in(both), "mixed", finish_reason)


def _of_layer(words: Sequence[Word]) -> tuple[PageText, list[Word]]:
    """Return the text and the words of a text layer, in reading order and with broken words joined."""
    lines = lines_of(words)
    texts = [line.text for line in lines]
    places = along_the_text([line.box for line in lines], [line.polygon for line in lines], texts)
    rows = reading_order(places, texts)
    joined = without_breaks([[lines[index] for index in row] for row in rows])
    text = "\n".join(" ".join(line.text for line in row) for row in joined)
    in_order = [line for row in joined for line in row]
    read = [word for line in in_order for word in line.words]
    return PageText(text, [_region(line) for line in in_order]), read


def _of_both(printed: PageText, added: Sequence[dict[str, Any]]) -> PageText:
    """Return the lines read from the image joined with the text layer, each line once."""
    regions = list(added)
    regions += [
        line
        for line in printed.lines
        if not any(
            line["text"] in other["text"] and _overlap(line["box"], [other["box"]]) >= _SAME_PLACE for other in regions
        )
    ]
    texts, polygons = [line["text"] for line in regions], [line.get("polygon") for line in regions]
    return PageText.arranged(regions, along_the_text([line["box"] for line in regions], polygons, texts))


def _words_in(read: PageText) -> list[Word]:
    """Return the words that were read, each with its part of its line's box."""
    words: list[Word] = []
    for region in read.lines:
        left, top, right, bottom = region["box"]
        letter = (right - left) / max(len(region["text"]), 1)
        at = 0
        for text in region["text"].split():
            at = region["text"].index(text, at)
            box = [round(left + at * letter), top, round(left + (at + len(text)) * letter), bottom]
            words.append({"text": text, "box": box})
            at += len(text)
    return words


def _region(line: Line) -> dict[str, Any]:
    region: dict[str, Any] = {"text": line.text, "box": line.box}
    if line.polygon is not None:
        region["polygon"] = line.polygon
    if line.goes_on_in:
        region["boxes"] = [line.box, *line.goes_on_in]
    return region


def _overlap(box: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    shared = sum(
        max(0, min(box[2], other[2]) - max(box[0], other[0])) * max(0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in others
    )
    return shared / max(1, (box[2] - box[0]) * (box[3] - box[1]))
