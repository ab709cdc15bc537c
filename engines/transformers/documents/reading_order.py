"""Sorts the lines of a page in reading order: columns before rows where the lines are prose."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from statistics import median

_DIRECTIONS = {"L": "L", "R": "R", "AL": "R"}
"""How scripts run, by the class that Unicode gives to their letters."""


def _directions(text: str) -> list[str]:
    """Return L or R for each letter of `text`, nothing for numbers and signs."""
    return [_DIRECTIONS[kind] for kind in map(unicodedata.bidirectional, text) if kind in _DIRECTIONS]


def _runs_to_the_left(texts: Sequence[str]) -> bool:
    """Return whether most letters of `texts` are of a right-to-left script."""
    directions = _directions("".join(texts))
    return directions.count("R") > directions.count("L")


def as_read(texts: Sequence[str]) -> list[int]:
    """Return the indices of `texts`, which lie side by side from left to right, in the order they are read. Most of
    their letters say where to begin; what is written the other way is read the other way within, with the numbers
    that stand between."""
    order = list(range(len(texts)))
    against = "R"
    if _runs_to_the_left(texts):
        order.reverse()
        against = "L"
    first_letters = "".join(next(iter(_directions(texts[index])), "-") for index in order)
    for part in re.finditer(f"{against}(-*{against})*", first_letters):
        first, end = part.span()
        order[first:end] = reversed(order[first:end])
    return order


Box = Sequence[float]
"""Left, top, right, bottom, growing to the right and down."""

_COLUMN_WIDTH = 8
"""Times its height that a line of a column is wide at least, by the median; narrower lines are cells of a
table or parts of a form, which are read row by row."""

_SAME_ROW = 0.5
"""Part of the lower height by which the middles of two boxes in a row may differ."""


def reading_order(boxes: Sequence[Box], texts: Sequence[str]) -> list[list[int]]:
    """Return the indices of `boxes` in rows from first to last, each row as it is read. Columns are found by the
    gutters between them, which headings and footers may cross. `texts` tell whether the page runs from right to left,
    and each row."""
    by_middle = sorted(range(len(boxes)), key=lambda index: _middle(boxes[index]))
    rows = _ordered(by_middle, boxes, to_the_left=_runs_to_the_left(texts))
    return [[row[place] for place in as_read([texts[index] for index in row])] for row in rows]


def along_the_text(
    boxes: Sequence[Box], polygons: Sequence[Sequence[Sequence[float]] | None], texts: Sequence[str]
) -> list[Box]:
    """Return `boxes` as they are once the page is turned by quarters so that most letters run to the right, as a text
    without a polygon does; a polygon begins at the top left of its text and goes on along it."""
    letters = [0, 0, 0, 0]
    for polygon, text in zip(polygons, texts, strict=True):
        letters[_quarters(polygon) if polygon else 0] += len(text)
    quarters = letters.index(max(letters))
    return [_turned_back(box, quarters) for box in boxes]


def _quarters(polygon: Sequence[Sequence[float]]) -> int:
    """Return by how many quarters a text is turned clockwise."""
    (left, top), (right, lower), *_ = polygon
    return round(math.atan2(lower - top, right - left) / (math.pi / 2)) % 4


def _turned_back(box: Box, quarters: int) -> Box:
    for _ in range(quarters):
        left, top, right, bottom = box
        box = (top, -right, bottom, -left)
    return box


def _ordered(indices: Sequence[int], boxes: Sequence[Box], *, to_the_left: bool) -> Iterator[list[int]]:
    """Yield the rows of `indices`, which come by the middles of their boxes from above, each from left to right."""
    gutter = _widest_use(indices, boxes)
    if gutter is None:
        yield from _rows(indices, boxes)
        return
    between: list[int] = []  # what lies above and below the columns, which may have its own gutters
    for band, crossing in _bands(indices, boxes, gutter):
        if columns := _columns(band, boxes, gutter):
            left, right = columns
            for part in (between, right, left) if to_the_left else (between, left, right):
                yield from _ordered(part, boxes, to_the_left=to_the_left)
            between = []
        else:
            between += band
        if crossing is not None:
            between.append(crossing)
    yield from _ordered(between, boxes, to_the_left=to_the_left)


def _widest_use(indices: Sequence[int], boxes: Sequence[Box]) -> float | None:
    """Return where the gutter is that has most lines in columns beside it, None where there are no columns."""
    best, most = None, 0
    lefts = sorted(boxes[index][0] for index in indices)
    for right in sorted({boxes[index][2] for index in indices}):
        left = next((left for left in lefts if left > right), None)
        if left is None:
            continue
        gutter = (left + right) / 2
        bands = [band for band, _ in _bands(indices, boxes, gutter)]
        beside = sum(len(band) for band in bands if _columns(band, boxes, gutter))
        if beside > most:
            best, most = gutter, beside
    return best


def _bands(indices: Sequence[int], boxes: Sequence[Box], gutter: float) -> Iterator[tuple[list[int], int | None]]:
    """Yield from above the lines between those that cross the gutter, with the crossing line below them."""
    band: list[int] = []
    for index in indices:
        if boxes[index][0] < gutter < boxes[index][2]:
            yield band, index
            band = []
        else:
            band.append(index)
    yield band, None


def _columns(band: Sequence[int], boxes: Sequence[Box], gutter: float) -> tuple[list[int], list[int]] | None:
    """Return the lines left and right of the gutter, None where they are not columns of prose."""
    left = [index for index in band if boxes[index][2] <= gutter]
    right = [index for index in band if boxes[index][0] >= gutter]
    if min(len(left), len(right)) < 2:
        return None
    for side in (left, right):
        narrowest = median(height(boxes[index]) for index in side) * _COLUMN_WIDTH
        if median(boxes[index][2] - boxes[index][0] for index in side) < narrowest:
            return None
    top = max(min(boxes[index][1] for index in side) for side in (left, right))
    bottom = min(max(boxes[index][3] for index in side) for side in (left, right))
    return (left, right) if bottom > top else None


def _rows(indices: Sequence[int], boxes: Sequence[Box]) -> Iterator[list[int]]:
    row: list[int] = []
    for index in indices:
        if row and not same_row(boxes[row[-1]], boxes[index]):
            yield sorted(row, key=lambda index: boxes[index][0])
            row = []
        row.append(index)
    if row:
        yield sorted(row, key=lambda index: boxes[index][0])


def same_row(one: Box, other: Box) -> bool:
    return abs(_middle(one) - _middle(other)) <= _SAME_ROW * min(height(one), height(other))


def _middle(box: Box) -> float:
    return (box[1] + box[3]) / 2


def height(box: Box) -> float:
    return box[3] - box[1]
