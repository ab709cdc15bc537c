"""The words of a PDF page's text layer, in the order of the file, with their places in pixels."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pypdfium2 import PdfPage, PdfTextPage, raw  # type: ignore[import-untyped]

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
        along, up = (
            (math.cos(self.angle), math.sin(self.angle)),
            (-math.sin(self.angle), math.cos(self.angle)),
        )
        whole = (last.x - self.x) * along[0] + (last.y - self.y) * along[1] + last.reach
        ascent, descent = _ASCENT * self.size, -_DESCENT * self.size
        places = ((0.0, ascent), (whole, ascent), (whole, descent), (0.0, descent))
        return [(self.x + a * along[0] + b * up[0], self.y + a * along[1] + b * up[1]) for a, b in places]


@dataclass(frozen=True, slots=True)
class _Letter:
    """A character; `box` is None for spaces that stand nowhere, `turned` for what runs level to the right."""

    text: str
    box: Box | None
    turned: _Turned | None


def words_of(page: PdfPage, text: PdfTextPage, width: int, height: int) -> list[Word] | None:
    """Return the words of a page of `width` x `height` pixels, or None where it has no text, or mostly
    glyphs whose characters the file does not give."""
    to_pixels = pixels_of(page, width, height)
    words = [
        word
        for run in _runs(_letters(page, text, to_pixels))
        if (word := _word(run, to_pixels))["box"][0] < width and word["box"][1] < height
        if word["box"][2] > 0 and word["box"][3] > 0
    ]
    characters = "".join(word["text"] for word in words)
    unknown = sum(letter == _UNKNOWN or "\ue000" <= letter <= "\uf8ff" for letter in characters)
    return words if characters and 2 * unknown < len(characters) else None


def pixels_of(page: PdfPage, width: int, height: int) -> ToPixels:
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
    if not raw.FPDFText_GetCharOrigin(text.raw, index, x, y) or not raw.FPDFText_GetMatrix(
        text.raw, index, matrix
    ):
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
        if letter.box is None or letter.text.isspace() or letter.text < " ":
            if run:
                yield run
            run = []
            continue
        run.append(letter)
        if letter.text == _SOFT_HYPHEN:
            yield run
            run = []
    if run:
        yield run


def _word(run: Sequence[_Letter], to_pixels: ToPixels) -> Word:
    written = "".join(letter.text for letter in run)
    whole = written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs come as two letters
    if whole.endswith(_SOFT_HYPHEN) and len(whole) > 1:
        whole = whole[:-1] + "-"
    word: Word = {"text": whole, "box": _around([corner for letter in run for corner in _corners(letter)])}
    first, last = run[0].turned, run[-1].turned
    if first is not None and last is not None:
        polygon = [to_pixels(x, y) for x, y in first.corners(last)]
        if None not in polygon:
            word["polygon"] = [list(point) for point in polygon if point]
    return word


def _corners(letter: _Letter) -> Iterator[tuple[int, int]]:
    if letter.box is not None:
        yield letter.box[0], letter.box[1]
        yield letter.box[2], letter.box[3]


def _around(points: Sequence[tuple[int, int]]) -> Box:
    columns, rows = zip(*points, strict=True)
    return min(columns), min(rows), max(columns), max(rows)
