"""Makes lines of the words of a text layer: groups, order, and words broken at the end of a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from engines.transformers.documents.reading_order import as_read, height, same_row
from handlers.decoding.document_pages import Word

_SAME_LINE_GAP = 2
"""Largest gap between two words of a line, in heights of the word."""

_SAME_ANGLE = math.radians(3)

_HYPHENS = "-\N{HYPHEN}\N{SOFT HYPHEN}"

Polygon = list[list[int]]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, or a coherent part of it, with its place on the page."""

    words: tuple[Word, ...]
    """In the order of reading."""
    box: list[int]
    polygon: Polygon | None = None
    """Corners clockwise from the top left of the text, where it does not run level to the right."""
    goes_on_in: tuple[list[int], ...] = ()
    """The boxes of the rest of its last word, where that continues in the next lines."""

    @property
    def text(self) -> str:
        return " ".join(word["text"] for word in self.words)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A word on the page as it is once turned so that the word runs level to the right."""

    word: Word
    angle: float
    box: Box


def lines_of(words: Sequence[Word]) -> list[Line]:
    """Return words of a text layer as lines: words side by side that follow each other closely."""
    return [line for row in _rows(map(_placed, words)) for line in _lines(row)]


def without_breaks(rows: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Return rows of lines in reading order with the words joined that are broken at the end of a line. The hyphen
    goes where the word goes on with a small letter, and stays before a capital. The whole word stands in the line
    where it begins."""
    joined: list[list[Line]] = []
    for row in rows:
        above, below = joined[-1] if joined else [], list(row)
        if len(above) == len(below) == 1 and (pair := _joined(above[0], below[0])):
            above[0], rest = pair
            below = [rest] if rest.words else []
        if below:
            joined.append(below)
    return joined


def _joined(above: Line, below: Line) -> tuple[Line, Line] | None:
    """Return two lines with the word joined that is broken between them, None where there is none."""
    begun, rest = above.words[-1], below.words[0]
    stem, mark = begun["text"][:-1], begun["text"][-1:]
    first = rest["text"][:1]
    if mark not in _HYPHENS or not stem[-1:].isalpha() or not first.isalpha():
        return None
    keeps = first.isupper() and mark != "\N{SOFT HYPHEN}"
    whole: Word = {**begun, "text": f"{stem}{mark if keeps else ''}{rest['text']}"}
    return (
        replace(above, words=(*above.words[:-1], whole), goes_on_in=(*above.goes_on_in, list(rest["box"]))),
        replace(below, words=below.words[1:]),
    )


def _placed(word: Word, angle: float | None = None) -> _Placed:
    """Return `word` on the page turned by its own angle, or by `angle`, which is nearly the same."""
    polygon = word.get("polygon")
    if polygon is None:
        left, top, right, bottom = word["box"]
        return _Placed(word, 0.0, (left, top, right, bottom))
    (left, top), (right, lower), *_ = polygon
    if angle is None:
        angle = math.atan2(lower - top, right - left)
    return _Placed(word, angle, _union([(*point, *point) for point in _turned(polygon, -angle)]))


def _rows(words: Iterable[_Placed]) -> Iterator[list[_Placed]]:
    """Yield words that follow each other and stand side by side."""
    row: list[_Placed] = []
    box = (0.0, 0.0, 0.0, 0.0)
    for word in words:
        if row and abs(math.remainder(word.angle - row[0].angle, math.tau)) <= _SAME_ANGLE:
            word = _placed(word.word, row[0].angle)
            if same_row(box, word.box):
                row.append(word)
                box = _union([box, word.box])
                continue
        if row:
            yield row
        row, box = [word], word.box
    if row:
        yield row


def _lines(row: Sequence[_Placed]) -> Iterator[Line]:
    left_to_right = sorted(row, key=lambda word: word.box[0])
    together = [left_to_right[0]]
    for word in left_to_right[1:]:
        lower = min(height(together[-1].box), height(word.box))
        if -lower / 2 <= word.box[0] - max(one.box[2] for one in together) <= _SAME_LINE_GAP * lower:
            together.append(word)
        else:
            yield _line(together)
            together = [word]
    yield _line(together)


def _line(words: Sequence[_Placed]) -> Line:
    order = as_read([one.word["text"] for one in words])
    read = tuple(words[index].word for index in order)
    if not words[0].angle:
        return Line(read, list(map(round, _union([word["box"] for word in read]))))
    left, top, right, bottom = _union([one.box for one in words])
    corners = _turned([(left, top), (right, top), (right, bottom), (left, bottom)], words[0].angle)
    polygon = [[round(x), round(y)] for x, y in corners]
    return Line(read, list(map(round, _union([(*corner, *corner) for corner in corners]))), polygon)


def _turned(points: Iterable[Sequence[float]], angle: float) -> list[Point]:
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def _union(boxes: Sequence[Sequence[float]]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
