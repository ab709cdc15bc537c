"""Finds the lines of text in an image: a map of probabilities, its connected regions, their rectangles.

PP-OCR's post-processing is implemented here: OpenCV and torchvision, which have it, are not needed for anything else.
Source: https://arxiv.org/abs/1911.08947 (differentiable binarization: threshold, score, unclip)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from transformers import PreTrainedModel

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
        left_top, right_top, right_bottom, left_bottom = self.corners
        width = max(_length(right_top - left_top), _length(right_bottom - left_bottom))
        height = max(_length(left_bottom - left_top), _length(right_bottom - right_top))
        size = max(1, round(width)), max(1, round(height))
        quad = np.stack([left_top, left_bottom, right_bottom, right_top]).flatten().tolist()
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
        """Return the regions of text in an RGB picture, in no particular order."""
        seen = image.resize(self._seen_size(image.width, image.height), Image.Resampling.BILINEAR)
        scale = np.array([image.width / seen.width, image.height / seen.height], np.float32)
        edge = np.array([image.width, image.height], np.float32)
        return [
            TextRegion(np.clip(region.corners * scale, 0, edge), region.score)
            for region in regions_of(self._probabilities(seen))
        ]

    def _probabilities(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the probability of text at every pixel, (height, width)."""
        pixels = np.empty((3, image.height, image.width), np.float32)
        for plane, channel, mean, deviation in zip(pixels, "BGR", _MEAN, _DEVIATION, strict=True):
            plane[:] = np.asarray(
                image.getchannel(channel)
            )  # in place: of a large picture, each copy takes 200 MB
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


def regions_of(probabilities: NDArray[np.float32]) -> list[TextRegion]:
    """Return the regions of text in a map of probabilities (height, width), in pixels of the map."""
    regions = []
    for outline in connected_regions(probabilities > _TEXT):
        if np.ptp(outline, axis=0).max() < _SMALLEST:  # a speck, of which noise has thousands
            continue
        corners, (width, height) = around(outline)
        if min(width, height) < _SMALLEST:
            continue
        score = _mean_inside(probabilities, corners)
        if score >= _REGION:
            margin = width * height * _GROWTH / (2 * (width + height))
            regions.append(TextRegion(grown(corners, margin), score))
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


def _length(vector: NDArray[np.float32]) -> float:
    return float(np.hypot(*vector))


def connected_regions(mask: NDArray[np.bool_]) -> list[Points]:
    """Return the outline of each region of true pixels that touch, corners included. An outline is the first and the
    last pixel of every row of the region: what a rectangle around it needs."""
    rows, starts, ends = _runs(mask)
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    above = 0
    for run, row in enumerate(rows):
        while above < run and (
            rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] < starts[run])
        ):
            above += 1
        touching = above
        while touching < run and rows[touching] == row - 1 and starts[touching] <= ends[run]:
            parents[root(touching)] = root(run)
            touching += 1
    regions: dict[int, dict[int, tuple[int, int]]] = {}
    for run, row in enumerate(rows):
        region = regions.setdefault(root(run), {})
        first, last = region.get(row, (starts[run], ends[run] - 1))
        region[row] = min(first, starts[run]), max(last, ends[run] - 1)
    return [
        np.array([(x, row) for row, both in region.items() for x in both], np.float32)
        for region in regions.values()
    ]


def around(points: Points) -> tuple[Points, tuple[float, float]]:
    """Return the corners of the rectangle of least area around `points`, and its width and height.

    The corners go clockwise from the top left; width is the length of the upper side. One side of that
    rectangle lies along the convex hull. Source: Freeman, Shapira 1975, doi 10.1145/360881.360919
    """
    hull = _convex_hull(points)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.unique(np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2)) if len(hull) > 1 else np.zeros(1)
    axes = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (angles, 2): each one's x axis
    normals = np.stack([-axes[:, 1], axes[:, 0]], axis=1)
    along, across = hull @ axes.T, hull @ normals.T  # (points, angles)
    lows, highs = (along.min(0), across.min(0)), (along.max(0), across.max(0))
    best = int(np.argmin((highs[0] - lows[0]) * (highs[1] - lows[1])))
    spans = [(lows[axis][best], highs[axis][best]) for axis in (0, 1)]
    corners = [a * axes[best] + b * normals[best] for a in spans[0] for b in spans[1]]
    ordered = _clockwise(np.array(corners, np.float32))
    upper, left = ordered[1] - ordered[0], ordered[3] - ordered[0]
    return ordered, (_length(upper), _length(left))


def grown(corners: Points, margin: float) -> Points:
    """Return the corners of the rectangle that is larger by `margin` on each side."""
    right, down = _unit(corners[1] - corners[0]), _unit(corners[3] - corners[0])
    ways = np.stack([-right - down, right - down, right + down, -right + down])
    larger: Points = (corners + margin * ways).astype(np.float32)
    return larger


def _runs(mask: NDArray[np.bool_]) -> tuple[list[int], list[int], list[int]]:
    """Return row, start and end (exclusive) of every run of true pixels, by rows from the top."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return rows.tolist(), starts.tolist(), ends.tolist()


def _convex_hull(points: Points) -> Points:
    """Return the corners of the convex hull, in order around it.

    Source: Andrew 1979, doi 10.1016/0020-0190(79)90072-3 (monotone chain)
    """
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) < 3:
        return np.array(ordered, np.float32)
    lower, upper = _chain(ordered), _chain(ordered[::-1])
    return np.array(lower[:-1] + upper[:-1], np.float32)


def _chain(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for x, y in points:
        while len(chain) > 1:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain


def _clockwise(corners: Points) -> Points:
    """Return four corners from the top left on: of the two on the left, the upper comes first."""
    by_x: Any = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    left, right = left[np.argsort(left[:, 1])], right[np.argsort(right[:, 1])]
    return np.stack([left[0], right[0], right[1], left[1]])


def _unit(vector: Points) -> Points:
    unit: Points = vector / max(_length(vector), 1e-6)
    return unit
