"""Connected regions and the smallest rectangles around them, against ones drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engines.transformers.documents.rectangles import around, connected_regions, grown


def mask(*rows: str) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.array([[letter == "#" for letter in row] for row in rows])


def pixels(drawing: tuple[str, ...]) -> list[set[tuple[int, int]]]:
    """Return first and last pixel (x, y) of each region's rows."""
    return sorted(
        ({(int(x), int(y)) for x, y in region} for region in connected_regions(mask(*drawing))), key=min
    )


def test_regions_that_touch_nowhere_are_apart() -> None:
    assert pixels(("##..#", "##..#", ".....", "#...#")) == [
        {(0, 0), (1, 0), (0, 1), (1, 1)},
        {(0, 3)},
        {(4, 0), (4, 1)},
        {(4, 3)},
    ]


def test_corners_that_touch_belong_together() -> None:
    assert pixels(("#...", ".#..", "..#.")) == [{(0, 0), (1, 1), (2, 2)}]
    assert pixels(("..#.", ".#..", "#...")) == [{(2, 0), (1, 1), (0, 2)}]


def test_arms_that_meet_further_down_are_one_region() -> None:
    assert pixels(("#.#.#", "#.#.#", "#####")) == [{(0, 0), (4, 0), (0, 1), (4, 1), (0, 2), (4, 2)}]


def test_arms_that_met_further_up_are_one_region() -> None:
    assert pixels(("#####", "#...#", "#.#.#")) == [
        {(0, 0), (4, 0), (0, 1), (4, 1), (0, 2), (4, 2)},
        {(2, 2)},
    ]


def test_an_empty_mask_has_no_regions() -> None:
    assert connected_regions(np.zeros((4, 7), bool)) == []
    assert connected_regions(np.zeros((0, 0), bool)) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_have_the_regions_of_a_flood_fill(seed: int) -> None:
    drawn = np.random.default_rng(seed).random((24, 31)) < 0.42
    left = {(int(x), int(y)) for y, x in np.argwhere(drawn)}
    expected = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            x, y = edge.pop()
            region.add((x, y))
            near = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        rows = {y: [x for x, other in region if other == y] for _, y in region}
        expected.append({(x, y) for y, xs in rows.items() for x in (min(xs), max(xs))})
    found = [{(int(x), int(y)) for x, y in region} for region in connected_regions(drawn)]
    assert sorted(found, key=sorted) == sorted(expected, key=sorted)


@pytest.mark.parametrize("degrees", [0, 2, -2, 10, -30, 44])
def test_a_turned_rectangle_is_found_with_its_corners_clockwise_from_the_top_left(degrees: float) -> None:
    turn = math.radians(degrees)
    axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    drawn = (np.array([[0, 0], [80, 0], [80, 20], [0, 20]]) @ axes + 50).astype(np.float32)
    inner = (np.random.default_rng(0).uniform([0, 0], [80, 20], (50, 2)) @ axes + 50).astype(np.float32)
    corners, (width, height) = around(np.concatenate([inner, drawn]))
    np.testing.assert_allclose(corners, drawn, atol=1e-3)
    assert [width, height] == pytest.approx([80, 20], abs=1e-3)


@pytest.mark.parametrize("points", [[(3, 4)], [(3, 4), (9, 4)], [(0, 0), (2, 2), (4, 4)]])
def test_a_point_and_a_line_have_no_area(points: list[tuple[int, int]]) -> None:
    _, (width, height) = around(np.array(points, np.float32))
    assert width * height == pytest.approx(0, abs=1e-4)


def test_a_rectangle_grows_on_all_sides() -> None:
    corners = np.array([[10, 10], [30, 10], [30, 20], [10, 20]], np.float32)
    np.testing.assert_allclose(grown(corners, 2), [[8, 8], [32, 8], [32, 22], [8, 22]])
