"""Measures how much of a PDF page is images that its text layer does not cover: a scan with a stamp, a pasted
receipt."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from pypdfium2 import PdfPage, PdfTextPage, raw  # type: ignore[import-untyped]

from handlers.decoding.children.pdf_layers import INVISIBLE, leaves_of
from handlers.decoding.children.pdf_words import Box, ToPixels, pixels_of
from handlers.decoding.document_pages import Word

_CELLS = 64
"""The page is divided into a grid of so many cells each way."""

_OF_THE_PAGE = 0.25
"""The share of the page that uncovered images must have to be read."""

_OF_THE_PICTURES = 0.5
"""The share of the images that must be uncovered; the rest of a scan that was read are its margins."""

_LETTERS_LOOKED_AT = 200

Matrix = tuple[float, float, float, float, float, float]


def has_unread_pictures(
    page: PdfPage, text: PdfTextPage, words: Sequence[Word], width: int, height: int
) -> bool:
    """Tell whether a large part of a page of `width` x `height` pixels is images that `words` do not cover.

    Invisible text was made from the images by OCR: then nothing is left to read.
    """
    to_pixels = pixels_of(page, width, height)
    boxes = [box for corners in _pictures(page) if (box := _box(corners, to_pixels))]
    pictured = _marked(boxes, width, height)
    if sum(map(int.bit_count, pictured)) < _OF_THE_PAGE * _CELLS**2 or _is_invisible(text):
        return False
    covered = _marked([_grown(word["box"]) for word in words], width, height)
    of_pictures = sum(map(int.bit_count, pictured))
    unread = sum((cells & ~over).bit_count() for cells, over in zip(pictured, covered, strict=True))
    return unread >= max(_OF_THE_PAGE * _CELLS**2, _OF_THE_PICTURES * of_pictures)


def _pictures(page: PdfPage) -> Iterator[list[tuple[float, float]]]:
    """Yield the corners of each picture in points of the page."""
    for found, forms in leaves_of(page):
        if raw.FPDFPageObj_GetType(found) == raw.FPDF_PAGEOBJ_IMAGE:
            a, b, c, d, e, f = functools.reduce(_within, map(_matrix, (found, *reversed(forms))))
            yield [(e, f), (e + a, f + b), (e + c, f + d), (e + a + c, f + b + d)]


def _matrix(found: Any) -> Matrix:
    matrix = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(found, ctypes.byref(matrix)):
        return (0, 0, 0, 0, 0, 0)
    return matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f


def _within(inner: Matrix, outer: Matrix) -> Matrix:
    """Return the transformation that applies `inner` first and `outer` then."""
    a, b, c, d, e, f = inner
    p, q, r, s, t, u = outer
    return (a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u)


def _box(corners: Sequence[tuple[float, float]], to_pixels: ToPixels) -> Box | None:
    points = [point for x, y in corners if (point := to_pixels(x, y))]
    if len(points) < len(corners):
        return None
    columns, rows = zip(*points, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


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
