"""The words of a PDF page's text layer, in the order of the file, with their places in pixels, and how much of the page
is images that they do not cover: a scan with a stamp, a pasted receipt."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pypdfium2 import PdfMatrix, PdfPage, PdfTextPage, raw  # type: ignore[import-untyped]

from handlers.decoding.children.pdf_layers import INVISIBLE, leaves_of
from handlers.decoding.document_pages import Word

Box = tuple[int, int, int, int]
ToPixels = Callable[[float, float], tuple[int, int] | None]

_HYPHEN = 2
"""The character in which PDFium writes a hyphen at the end of a line; the letters of the next line follow."""

_SOFT_HYPHEN = "\N{SOFT HYPHEN}"

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

_LEVEL = math.radians(1)
"""Text turned by less than this gets boxes without polygons."""

_ASCENT, _DESCENT = 0.8, 0.2
"""How far turned letters reach above and below their baseline, in parts of their size."""

_CELLS = 64
"""The page is divided into a grid of so many cells each way."""

_OF_THE_PAGE = 0.25
"""From this share of the page on, uncovered images are read with the whole page."""

_PART_OF_THE_PAGE = 0.05
"""From this share of the page on, uncovered images are read; smaller ones are logos and signatures, which would make
many pages of plain text as costly as scans."""

_LEAST_DPI = 40
"""An image with fewer pixels an inch holds no letters that can be read."""

_OF_THE_PICTURES = 0.5
"""The share of the images that must be uncovered; the rest of a scan that was read are its margins."""

_LETTERS_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class _Turned:
    """The place of a turned letter, in points of the page: its origin, direction, size, and advance along the line."""

    x: float
    y: float
    angle: float
    size: float
    reach: float

    def corners(self, last: _Turned) -> list[tuple[float, float]]:
        """Return the corners of the text from this letter to `last`, clockwise from its top left."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        whole = (last.x - self.x) * cos + (last.y - self.y) * sin + last.reach
        ascent, descent = _ASCENT * self.size, -_DESCENT * self.size
        places = ((0.0, ascent), (whole, ascent), (whole, descent), (0.0, descent))
        turned = PdfMatrix(cos, sin, -sin, cos, self.x, self.y)
        return [turned.on_point(*place) for place in places]


@dataclass(frozen=True, slots=True)
class _Letter:
    """A character; `box` is None for spaces that stand nowhere, `turned` for what runs level to the right."""

    text: str
    box: Box | None
    turned: _Turned | None


def words_of(page: PdfPage, text: PdfTextPage, width: int, height: int) -> list[Word] | None:
    """Return the words of a page of `width` x `height` pixels, or None where it has no text, or mostly
    glyphs whose characters the file does not give."""
    to_pixels = _pixels_of(page, width, height)
    words = [
        word
        for run in _runs(_letters(page, text, to_pixels))
        if (word := _word(run, to_pixels))["box"][0] < width and word["box"][1] < height
        if word["box"][2] > 0 and word["box"][3] > 0
    ]
    characters = "".join(word["text"] for word in words)
    unknown = sum(letter == _UNKNOWN or "\ue000" <= letter <= "\uf8ff" for letter in characters)
    return words if characters and 2 * unknown < len(characters) else None


def _pixels_of(page: PdfPage, width: int, height: int) -> ToPixels:
    """Return the function from points of the page to pixels, for any rotation of the page."""
    column, row = ctypes.c_int(), ctypes.c_int()

    def to_pixels(x: float, y: float) -> tuple[int, int] | None:
        is_known = raw.FPDF_PageToDevice(page.raw, 0, 0, width, height, 0, x, y, column, row)
        return (column.value, row.value) if is_known else None

    return to_pixels


def _letters(page: PdfPage, text: PdfTextPage, to_pixels: ToPixels) -> Iterator[_Letter]:
    rotation = math.radians(page.get_rotation())
    found = raw.FS_RECTF()
    for index in range(text.count_chars()):
        code = raw.FPDFText_GetUnicode(text.raw, index)
        letter = _SOFT_HYPHEN if code == _HYPHEN else chr(code) if 0 < code <= 0x10FFFF else _UNKNOWN
        box = turned = None
        # As high as its font, and so are all letters of a line.
        if raw.FPDFText_GetLooseCharBox(text.raw, index, found):
            first, last = to_pixels(found.left, found.top), to_pixels(found.right, found.bottom)
            box = _around((first, last)) if first and last else None
            angle = raw.FPDFText_GetCharAngle(text.raw, index)  # clockwise; negative where it is not known
            if angle >= 0 and _LEVEL < (angle + rotation) % math.tau < math.tau - _LEVEL:
                turned = _turned(text, index, found.right - found.left + found.top - found.bottom)
        yield _Letter(letter, box, turned)


def _turned(text: PdfTextPage, index: int, sides: float) -> _Turned | None:
    """Return where a letter stands around which an upright box of two `sides`, added, was drawn."""
    x, y, matrix = ctypes.c_double(), ctypes.c_double(), raw.FS_MATRIX()
    if not raw.FPDFText_GetCharOrigin(text.raw, index, x, y) or not raw.FPDFText_GetMatrix(text.raw, index, matrix):
        return None
    angle = math.atan2(matrix.b, matrix.a)
    size = raw.FPDFText_GetFontSize(text.raw, index) * math.hypot(matrix.c, matrix.d)
    # The box around a turned letter of that reach and height has sides of (reach + height) (|cos| + |sin|).
    reach = sides / (abs(math.cos(angle)) + abs(math.sin(angle))) - (_ASCENT + _DESCENT) * size
    return _Turned(x.value, y.value, angle, size, max(reach, _DESCENT * size))


def _runs(letters: Iterable[_Letter]) -> Iterator[list[_Letter]]:
    """Yield the letters between spaces, line ends and other characters without a picture."""
    run: list[_Letter] = []
    for letter in letters:
        is_seen = letter.box is not None and not letter.text.isspace() and letter.text >= " "
        if is_seen:
            run.append(letter)
        if run and (not is_seen or letter.text == _SOFT_HYPHEN):
            yield run
            run = []
    if run:
        yield run


def _word(run: Sequence[_Letter], to_pixels: ToPixels) -> Word:
    written = "".join(letter.text for letter in run)
    whole = written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs come as two letters
    if whole.endswith(_SOFT_HYPHEN) and len(whole) > 1:
        whole = whole[:-1] + "-"
    corners = [corner for letter in run if (box := letter.box) for corner in (box[:2], box[2:])]
    word: Word = {"text": whole, "box": _around(corners)}
    first, last = run[0].turned, run[-1].turned
    if first is not None and last is not None:
        polygon = [to_pixels(x, y) for x, y in first.corners(last)]
        if None not in polygon:
            word["polygon"] = [list(point) for point in polygon if point]
    return word


def _around(points: Sequence[tuple[int, int]]) -> Box:
    columns, rows = zip(*points, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def unread_pictures(page: PdfPage, text: PdfTextPage, words: Sequence[Word], width: int, height: int) -> Box | None:
    """Return the part of a page of `width` x `height` pixels to read as an image, as `words` do not cover its images.

    That is the whole page where these are a large part of it, and None where they are a small one. Invisible text was
    made from the images by OCR: then nothing is left to read.
    """
    to_pixels = _pixels_of(page, width, height)
    placed: list[tuple[Box, bool]] = []
    for corners, is_fine in _pictures(page):
        points = [point for x, y in corners if (point := to_pixels(x, y))]
        if len(points) == 4:
            placed.append((_around(points), is_fine))
    if not placed:
        return None
    covered = _marked([_grown(word["box"]) for word in words], width, height)
    fine = [box for box, is_fine in placed if is_fine]
    found = None
    if _are_unread([box for box, _ in placed], covered, width, height, _OF_THE_PAGE):
        found = (0, 0, width, height)
    elif _are_unread(fine, covered, width, height, _PART_OF_THE_PAGE):
        left, top, right, bottom = _around([corner for box in fine for corner in (box[:2], box[2:])])
        found = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    return None if found is None or _is_invisible(text) else found


def _are_unread(boxes: Sequence[Box], covered: Sequence[int], width: int, height: int, share: float) -> bool:
    """Tell whether images leave that share of the page uncovered, and a good part of themselves."""
    pictured = _marked(boxes, width, height)
    unread = sum((cells & ~over).bit_count() for cells, over in zip(pictured, covered, strict=True))
    return unread >= max(share * _CELLS**2, _OF_THE_PICTURES * sum(map(int.bit_count, pictured)))


def _pictures(page: PdfPage) -> Iterator[tuple[list[tuple[float, float]], bool]]:
    """Yield the corners of each picture in points of the page, and whether it is fine enough for letters."""
    columns, rows = ctypes.c_uint(), ctypes.c_uint()
    for found, forms in leaves_of(page):
        if raw.FPDFPageObj_GetType(found) == raw.FPDF_PAGEOBJ_IMAGE:
            whole = functools.reduce(PdfMatrix.multiply, map(_matrix, (found, *reversed(forms))))
            area = abs(whole.a * whole.d - whole.b * whole.c) / 72**2
            is_known = raw.FPDFImageObj_GetImagePixelSize(found, columns, rows)
            is_fine = not is_known or columns.value * rows.value >= area * _LEAST_DPI**2
            yield [whole.on_point(x, y) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1))], is_fine


def _matrix(found: Any) -> PdfMatrix:
    matrix = raw.FS_MATRIX()  # of zeros, where the object has none
    raw.FPDFPageObj_GetMatrix(found, ctypes.byref(matrix))
    return PdfMatrix.from_raw(matrix)


def _grown(box: Sequence[int]) -> Box:
    """Return a word's box with the space of its line around it."""
    left, top, right, bottom = box
    space = min(right - left, bottom - top)
    return left - space, top - space, right + space, bottom + space


def _marked(boxes: Sequence[Box], width: int, height: int) -> list[int]:
    """Return the rows of the grid, each with a bit for every cell whose middle is in one of `boxes`."""
    rows = [0] * _CELLS
    for left, top, right, bottom in boxes:
        first, last = (min(max(round(side * _CELLS / width), 0), _CELLS) for side in (left, right))
        bits = (1 << last) - (1 << first) if last > first else 0
        upper, lower = (min(max(round(side * _CELLS / height), 0), _CELLS) for side in (top, bottom))
        for row in range(upper, lower):
            rows[row] |= bits
    return rows


def _is_invisible(text: PdfTextPage) -> bool:
    """Tell whether most of the letters, or of a sample of them, are not drawn."""
    count = text.count_chars()
    modes = [
        raw.FPDFTextObj_GetTextRenderMode(found)
        for index in range(0, count, max(1, count // _LETTERS_LOOKED_AT))
        if (found := raw.FPDFText_GetTextObject(text.raw, index))
    ]
    return 2 * modes.count(INVISIBLE) > len(modes)
