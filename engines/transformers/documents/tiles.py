"""Runs a model that maps a picture to a number for each pixel over overlapping tiles, as if it saw the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.base import stop_if_unwanted

_OVERLAP = 160
"""Pixels that neighbours share: each counts up to the middle, as what lies at the edge of a tile is seen in part."""


def in_tiles(
    picture: Image.Image, side: int, step: int, look: Callable[[Image.Image], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return what `look` returns for `picture`, (height, width), from tiles of at most `side` pixels in width and
    height. `step` divides the sides of the picture and `side`, and then those of each tile and where it begins.

    Raises:
        Cancelled: permanent; no caller waits any more.
    """
    seen = np.empty((picture.height, picture.width), np.float32)
    for top, bottom, first_row, end_row in _spans(picture.height, side, step):
        for left, right, first, end in _spans(picture.width, side, step):
            stop_if_unwanted()
            part = look(picture.crop((left, top, right, bottom)))
            seen[first_row:end_row, first:end] = part[first_row - top : end_row - top, first - left : end - left]
    return seen


def _spans(length: int, side: int, step: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield for each tile where it begins and ends along a side, and which part of that it counts for."""
    count = max(1, math.ceil((length - _OVERLAP) / (side - _OVERLAP)))
    side = math.ceil((length + (count - 1) * _OVERLAP) / count / step) * step
    starts = [round(index * (length - side) / max(1, count - 1) / step) * step for index in range(count)]
    tiles = [(start, start + side) for start in starts]
    seams = [0, *((begins + ends) // 2 for (_, ends), (begins, _) in pairwise(tiles)), length]
    for (start, end), (first, last) in zip(tiles, pairwise(seams), strict=True):
        yield start, end, first, last
