"""The words of a PDF page's text layer, in the order of the file, with their places in pixels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from handlers.document_pages import Word

if TYPE_CHECKING:
    from pypdfium2 import PdfPage, PdfTextPage  # type: ignore[import-untyped]

Box = tuple[int, int, int, int]

_HYPHEN = "\x02"
"""What PDFium makes of a hyphen at the end of a line."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def words_of(page: PdfPage, text: PdfTextPage, width: int, height: int) -> list[Word] | None:
    """Return the words of a page that is `width` x `height` pixels, or None where it has no text that means
    something: none at all, or mostly glyphs of which the file does not tell the characters."""
    letters = [
        (letter, _box(page, text, index, width, height)) for index, letter in enumerate(_letters(text))
    ]
    words = [
        word
        for run in _runs(letters)
        if (word := _word(run))["box"][0] < width and word["box"][1] < height
        if word["box"][2] > 0 and word["box"][3] > 0
    ]
    characters = "".join(word["text"] for word in words)
    unknown = sum(letter == _UNKNOWN or "\ue000" <= letter <= "\uf8ff" for letter in characters)
    return words if characters and 2 * unknown < len(characters) else None


def _letters(text: PdfTextPage) -> Iterator[str]:
    from pypdfium2.raw import FPDFText_GetUnicode  # type: ignore[import-untyped]

    for index in range(text.count_chars()):
        code = FPDFText_GetUnicode(text.raw, index)
        yield chr(code) if 0 < code <= 0x10FFFF else _UNKNOWN


def _box(page: PdfPage, text: PdfTextPage, index: int, width: int, height: int) -> Box | None:
    """Return the place of a letter as high as its font, whichever way the page is turned; None for spaces
    that stand nowhere."""
    from pypdfium2.raw import FS_RECTF, FPDF_PageToDevice, FPDFText_GetLooseCharBox

    found = FS_RECTF()
    if not FPDFText_GetLooseCharBox(text.raw, index, found):
        return None
    corners = []
    for x, y in ((found.left, found.top), (found.right, found.bottom)):
        column, row = ctypes.c_int(), ctypes.c_int()
        if not FPDF_PageToDevice(page.raw, 0, 0, width, height, 0, x, y, column, row):
            return None
        corners.append((column.value, row.value))
    (left, top), (right, bottom) = corners
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def _runs(letters: Sequence[tuple[str, Box | None]]) -> Iterator[list[tuple[str, Box]]]:
    """Yield the letters between spaces, line ends and other characters without a picture."""
    run: list[tuple[str, Box]] = []
    for letter, box in letters:
        if letter == _HYPHEN:
            letter = "-"
        if box is not None and not letter.isspace() and letter >= " ":
            run.append((letter, box))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _word(run: Sequence[tuple[str, Box]]) -> Word:
    lefts, tops, rights, bottoms = zip(*(box for _, box in run), strict=True)
    written = "".join(letter for letter, _ in run)
    whole = written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs come as two letters
    return {"text": whole, "box": [min(lefts), min(tops), max(rights), max(bottoms)]}
