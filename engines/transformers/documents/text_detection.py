"""Finds the lines of text in an image: a map of probabilities, its connected regions, their rectangles.

PP-OCR's post-processing is implemented here: OpenCV and torchvision, which have it, are not needed for anything else.
Source: https://arxiv.org/abs/1911.08947 (differentiable binarization: threshold, score, unclip)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from transformers import PreTrainedModel

from engines.base import stop_if_unwanted
from engines.transformers.device import to_model
from engines.transformers.process_state import running

Points = NDArray[np.float32]
"""Points (x, y), (n, 2)."""

Corners = Points
"""Four points from the top left on, clockwise."""

_MEAN = np.array([0.406, 0.456, 0.485], np.float32)
_DEVIATION = np.array([0.225, 0.224, 0.229], np.float32)
"""ImageNet's, in the order of the model's channels: blue, green, red."""

_TEXT = 0.3
"""Probability from which a pixel counts as text."""

_REGION = 0.6
"""Mean probability from which a region counts."""

_GROWTH = 1.5
"""The model marks lines thinner than they are, so that neighbours do not touch."""

_SMALLEST = 3
"""Shorter side of a region before it grows, in pixels of the map."""

_STEP = 32
"""The model halves the image five times."""

_MOST_SHRUNK = 7.5
"""Times that one look at the whole picture may shrink it: letters of 36 pixels are just seen then. A page of A4 scanned
at 600 dpi is shrunk 7.3 times."""

_CLOSE = 3.5
"""Times that the second look shrinks a picture, as the first one does a page of A4 scanned at 300 dpi."""

_TILE = 960
"""Sides of the tiles of the second look, in pixels as the model sees them: bounds memory."""

_SHARED = 160
"""Pixels that neighbours share: each counts up to the middle, as what lies at the edge of a tile is seen in part."""

_COVERED = 0.3
"""Part of a region of the first look that those of the second cover at least where they hold the same text."""


@dataclass(frozen=True, slots=True)
class TextRegion:
    """A rectangle with a line of text in it, turned as the text is, in pixels of the picture."""

    corners: Corners
    score: float
    """Mean probability of being text, 0 to 1."""

    @property
    def box(self) -> list[int]:
        """Left, top, right, bottom of the upright rectangle around it."""
        (left, top), (right, bottom) = self.corners.min(axis=0), self.corners.max(axis=0)
        return [round(float(side)) for side in (left, top, right, bottom)]

    def cut_out(self, image: Image.Image) -> Image.Image:
        """Return the part of `image` in the rectangle, turned so that its upper side is level."""
        upper, right, lower, left = np.hypot(*(np.roll(self.corners, -1, axis=0) - self.corners).T).tolist()
        size = max(1, round(max(upper, lower))), max(1, round(max(left, right)))
        quad = self.corners[[0, 3, 2, 1]].flatten().tolist()
        return image.transform(size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


class TextDetector:
    """Finds lines of text with a detection model of the PP-OCR kind, which returns a map of probabilities."""

    def __init__(self, model: PreTrainedModel, settings: Mapping[str, Any]) -> None:
        """`settings` are those of the image processor that lies beside the model; it says how large a picture
        the model sees."""
        self.model = model
        self._limit: int = settings.get("limit_side_len", 960)
        self._limits_shorter: bool = settings.get("limit_type", "max") == "min"
        self._longest: int = settings.get("max_side_limit", 4000)

    @running()
    def find(self, image: Image.Image) -> list[TextRegion]:
        """Return the regions of text in an RGB picture, in no particular order. One that the settings shrink until text
        is too small to be seen is looked at again in tiles, whose number its pixels bound; lines too large for those
        count from the first look."""
        width, height = image.size
        size = self._seen_size(width, height)
        whole = self._regions(image, size, self._probabilities)
        if max(width, height) <= _MOST_SHRUNK * max(size):
            return whole
        size = _in_steps(width / _CLOSE), _in_steps(height / _CLOSE)
        close = self._regions(image, size, lambda seen: in_tiles(seen, self._probabilities))
        return of_both_looks(whole, close)

    def _regions(
        self, image: Image.Image, size: tuple[int, int], look: Callable[[Image.Image], NDArray[np.float32]]
    ) -> list[TextRegion]:
        """Return the regions in `image` by the probabilities that `look` returns for it in `size`."""
        seen = image.resize(size, Image.Resampling.BILINEAR)
        scale = np.array([image.width / seen.width, image.height / seen.height], np.float32)
        edge = np.array([image.width, image.height], np.float32)
        return [TextRegion(np.clip(region.corners * scale, 0, edge), region.score) for region in regions_of(look(seen))]

    def _probabilities(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the probability of text at every pixel, (height, width)."""
        pixels = np.empty((3, image.height, image.width), np.float32)
        for plane, channel, mean, deviation in zip(pixels, "BGR", _MEAN, _DEVIATION, strict=True):
            plane[:] = np.asarray(image.getchannel(channel))  # each copy of a large picture takes 200 MB
            plane /= 255
            plane -= mean
            plane /= deviation
        seen = to_model(self.model, {"pixel_values": torch.from_numpy(pixels)[None]})
        with torch.inference_mode():
            found = self.model(**seen).last_hidden_state
        probabilities: NDArray[np.float32] = found[0, 0].float().cpu().numpy()
        return probabilities

    def _seen_size(self, width: int, height: int) -> tuple[int, int]:
        shorter, longer = sorted((width, height))
        grow, shrink = max(1.0, self._limit / shorter), min(1.0, self._limit / longer)
        ratio = min(grow if self._limits_shorter else shrink, self._longest / longer)
        return _in_steps(width * ratio), _in_steps(height * ratio)


def in_tiles(picture: Image.Image, look: Callable[[Image.Image], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what `look` returns for `picture`, (height, width), from overlapping tiles: as if it saw the whole. The
    sides of the picture and of each tile, and where that begins, are whole steps.

    Raises:
        Cancelled: permanent; no caller waits any more.
    """
    seen = np.empty((picture.height, picture.width), np.float32)
    for top, bottom, first_row, end_row in _spans(picture.height):
        for left, right, first, end in _spans(picture.width):
            stop_if_unwanted()
            part = look(picture.crop((left, top, right, bottom)))
            seen[first_row:end_row, first:end] = part[first_row - top : end_row - top, first - left : end - left]
    return seen


def _spans(length: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield for each tile where it begins and ends along a side, and which part of that it counts for."""
    count = max(1, math.ceil((length - _SHARED) / (_TILE - _SHARED)))
    side = math.ceil((length + (count - 1) * _SHARED) / count / _STEP) * _STEP
    starts = [round(index * (length - side) / max(1, count - 1) / _STEP) * _STEP for index in range(count)]
    tiles = [(start, start + side) for start in starts]
    seams = [0, *((begins + ends) // 2 for (_, ends), (begins, _) in pairwise(tiles)), length]
    for (start, end), (first, last) in zip(tiles, pairwise(seams), strict=True):
        yield start, end, first, last


def of_both_looks(whole: Sequence[TextRegion], close: Sequence[TextRegion]) -> list[TextRegion]:
    """Return the regions of a close look, and those of a look at the whole picture that the close one has not, or only
    pieces of."""
    if not whole or not close:
        return [*whole, *close]
    boxes = np.array([region.box for region in close], np.float32)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    is_kept = np.ones(len(close), bool)
    large = []
    for region in whole:
        box = np.array(region.box, np.float32)
        shared = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        if shared.clip(0).prod(axis=1).sum() < _COVERED * (box[2:] - box[:2]).prod():
            large.append(region)
            is_kept &= ~((middles >= box[:2]) & (middles <= box[2:])).all(axis=1)
    return [*large, *(region for region, kept in zip(close, is_kept, strict=True) if kept)]


def regions_of(probabilities: NDArray[np.float32]) -> list[TextRegion]:
    """Return the regions of text in a map of probabilities (height, width), in pixels of the map."""
    regions = []
    for outline in connected_regions(probabilities > _TEXT):
        if np.ptp(outline, axis=0).max() < _SMALLEST:  # a speck, of which noise has thousands
            continue
        axes, low, high = around(outline)
        sides = high - low
        if sides.min() < _SMALLEST:
            continue
        corners = corners_of(axes, low, high)
        score = _mean_inside(probabilities, corners)
        if score >= _REGION:
            margin = sides.prod() * _GROWTH / (2 * sides.sum())
            outwards = np.sign((corners - corners.mean(axis=0)) @ axes.T) @ axes
            regions.append(TextRegion(corners + margin * outwards, score))
    return regions


def _mean_inside(probabilities: NDArray[np.float32], corners: Corners) -> float:
    height, width = probabilities.shape
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (width, height))
    inside = Image.new("1", (right - left, bottom - top))
    points = [(float(x), float(y)) for x, y in corners - np.array([left, top], np.float32)]
    ImageDraw.Draw(inside).polygon(points, fill=1)
    return float(probabilities[top:bottom, left:right][np.asarray(inside)].mean())


def _in_steps(length: float) -> int:
    return max(_STEP, round(int(length) / _STEP) * _STEP)


def connected_regions(mask: NDArray[np.bool_]) -> list[Points]:
    """Return the outline of each region of true pixels that touch, corners included. An outline is the first and the
    last pixel of every row of the region: what a rectangle around it needs."""
    # Runs of true pixels, by rows from the top; an end is exclusive.
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    # The runs in the row above that touch a run follow each other: from `first` to `last`, exclusive.
    offsets, above = rows * edges.shape[1], (rows - 1) * edges.shape[1]
    first = np.searchsorted(offsets + ends, above + starts)
    last = np.searchsorted(offsets + starts, above + ends, side="right")
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for run, touching in enumerate(map(range, first.tolist(), last.tolist())):
        for other in touching:
            parents[root(other)] = root(run)
    regions: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    for run, (row, start, end) in enumerate(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)):
        region = regions[root(run)]
        leftmost, _ = region.get(row, (start, end))
        region[row] = leftmost, end - 1
    return [
        np.array([(x, row) for row, both in region.items() for x in both], np.float32) for region in regions.values()
    ]


def around(points: Points) -> tuple[Points, Points, Points]:
    """Return the rectangle of least area around `points`: its two axes (axis, xy), and where it begins and ends along
    each.

    One of its sides lies along the convex hull. Source: Freeman, Shapira 1975, doi 10.1145/360881.360919
    """
    hull = _convex_hull(points)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.unique(np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2))
    cos, sin = np.cos(angles), np.sin(angles)
    axes = np.stack([cos, sin, -sin, cos], axis=1).reshape(-1, 2, 2)  # (angles, axis, xy)
    along = hull @ axes.transpose(0, 2, 1)  # (angles, points, axis)
    low, high = along.min(axis=1), along.max(axis=1)
    best = (high - low).prod(axis=1).argmin()
    return axes[best], low[best], high[best]


def corners_of(axes: Points, low: Points, high: Points) -> Corners:
    """Return the corners of a rectangle, given as `around` does: of the two on the left, the upper comes first."""
    (left, top), (right, bottom) = low, high
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) @ axes
    sides = corners[np.argsort(corners[:, 0], kind="stable")].reshape(2, 2, 2)
    (left_top, left_bottom), (right_top, right_bottom) = (side[np.argsort(side[:, 1])] for side in sides)
    return np.stack([left_top, right_top, right_bottom, left_bottom])


def _convex_hull(points: Points) -> Points:
    """Return the corners of the convex hull, in order around it.

    Source: Andrew 1979, doi 10.1016/0020-0190(79)90072-3 (monotone chain)
    """
    ordered = sorted({(float(x), float(y)) for x, y in points})
    hull: list[tuple[float, float]] = []
    for way in (ordered, ordered[::-1]):
        begun = len(hull)
        for x, y in way:
            while len(hull) > begun + 1:
                (x0, y0), (x1, y1) = hull[-2:]
                if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                    break
                hull.pop()
            hull.append((x, y))
        hull.pop()  # the other way begins with it
    return np.array(hull or ordered, np.float32)
