"""Connected regions of a mask and the smallest rectangles around them, in whatever direction they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
"""Points (x, y), (n, 2)."""


def connected_regions(mask: NDArray[np.bool_]) -> list[Points]:
    """Return the outline of each region of true pixels that touch, corners included.

    An outline is the first and the last pixel of every row of the region: what a rectangle around it needs.
    """
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
    return ordered, (float(np.hypot(*upper)), float(np.hypot(*left)))


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
    unit: Points = vector / max(float(np.hypot(*vector)), 1e-6)
    return unit
