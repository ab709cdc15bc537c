"""From a map of probabilities to regions of text and the rectangles around them, and to the picture of a line."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from engines.transformers.documents.text_detection import (
    TextDetector,
    TextRegion,
    around,
    connected_regions,
    corners_of,
    of_both_looks,
    regions_of,
)

pytestmark = pytest.mark.waits


def probabilities(
    *boxes: tuple[int, int, int, int, float],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    drawn = np.zeros((100, 200), np.float32)
    for left, top, right, bottom, value in boxes:
        drawn[top:bottom, left:right] = value
    return drawn


def test_a_region_grows_by_its_area_over_its_outline() -> None:
    [region] = regions_of(probabilities((20, 40, 120, 50, 0.9)))
    assert region.score == pytest.approx(0.9)
    margin = 99 * 9 * 1.5 / (2 * (99 + 9))  # pixels count by their middles
    assert region.box == [round(20 - margin), round(40 - margin), round(119 + margin), round(49 + margin)]


def test_a_turned_region_grows_on_all_sides() -> None:
    drawn = Image.new("L", (200, 100))
    corners = np.array([[40, 60], [140, 20], [148, 40], [48, 80]], np.float32)
    ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    [region] = regions_of(np.asarray(drawn, np.float32) / np.float32(255))
    outwards = region.corners - corners
    length, height = np.hypot(100, 40), np.hypot(8, 20)
    margin = length * height * 1.5 / (2 * (length + height))
    np.testing.assert_allclose(np.hypot(*outwards.T), [margin * np.sqrt(2)] * 4, atol=1.5)


def test_what_is_faint_small_or_unsure_is_no_region() -> None:
    faint, small, unsure = (20, 10, 90, 20, 0.29), (20, 30, 90, 33, 0.9), (20, 50, 90, 60, 0.55)
    assert regions_of(probabilities(faint, small, unsure)) == []


def test_a_ring_counts_by_all_that_it_surrounds() -> None:
    ring = probabilities((20, 20, 120, 60, 0.9))
    ring[24:56, 24:116] = 0.1
    assert regions_of(ring) == []


def test_a_region_at_the_edge_stays_a_region() -> None:
    [region] = regions_of(probabilities((150, 90, 200, 100, 0.9)))
    assert region.box[2] > 190


@pytest.mark.parametrize("degrees", [0, 5, -12])
def test_a_turned_line_is_cut_out_level(degrees: float) -> None:
    upright = Image.new("RGB", (300, 200), "white")
    pen = ImageDraw.Draw(upright)
    pen.rectangle((60, 80, 239, 99), fill="black")
    pen.rectangle((60, 80, 79, 99), fill="red")  # where the line begins
    turned = upright.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor="white")
    turn = np.radians(-degrees)
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    middle = np.array([150, 100])
    corners = (np.array([[60, 80], [240, 80], [240, 100], [60, 100]]) - middle) @ axes + middle
    cutting = TextRegion(corners.astype(np.float32), 0.9).cut_out(turned)
    assert cutting.size == (180, 20)
    found = np.asarray(cutting).astype(int)
    assert (found[3:-3, 3:17] - [255, 0, 0]).__abs__().max() < 40
    assert found[3:-3, 24:-3].max() < 40


@pytest.mark.parametrize(
    ("settings", "size", "seen"),
    [
        ({}, (640, 320), (640, 320)),
        ({}, (2000, 1000), (960, 480)),
        ({}, (5, 3), (32, 32)),
        ({"limit_side_len": 640}, (2000, 1000), (640, 320)),
        ({"limit_side_len": 64, "limit_type": "min"}, (640, 320), (640, 320)),
        ({"limit_side_len": 736, "limit_type": "min"}, (640, 320), (1472, 736)),
        ({"limit_side_len": 736, "limit_type": "min", "max_side_limit": 1000}, (640, 320), (992, 512)),
    ],
)
def test_a_picture_is_seen_at_the_size_that_the_settings_say(
    settings: dict[str, object], size: tuple[int, int], seen: tuple[int, int]
) -> None:
    detector = TextDetector(None, settings)  # type: ignore[arg-type]
    assert detector._seen_size(*size) == seen


def mask(*rows: str) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.array([[letter == "#" for letter in row] for row in rows])


def pixels(drawing: tuple[str, ...]) -> list[set[tuple[int, int]]]:
    """Return first and last pixel (x, y) of each region's rows."""
    return sorted(({(int(x), int(y)) for x, y in region} for region in connected_regions(mask(*drawing))), key=min)


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
    found = around(np.concatenate([inner, drawn]))
    np.testing.assert_allclose(corners_of(*found), drawn, atol=1e-3)
    _, low, high = found
    assert sorted((high - low).tolist()) == pytest.approx([20, 80], abs=1e-3)


@pytest.mark.parametrize("points", [[(3, 4)], [(3, 4), (9, 4)], [(0, 0), (2, 2), (4, 4)]])
def test_a_point_and_a_line_have_no_area(points: list[tuple[int, int]]) -> None:
    _, low, high = around(np.array(points, np.float32))
    assert (high - low).prod() == pytest.approx(0, abs=1e-4)


class DarkIsText(nn.Module):
    """Sees text where all of a pixel is dark, so that what is shrunk to less than a pixel is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.sizes.append((pixel_values.shape[3], pixel_values.shape[2]))
        return SimpleNamespace(last_hidden_state=(pixel_values.amax(dim=1, keepdim=True) < -1).float())


def sheet(size: tuple[int, int], *bars: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size, "white")
    for bar in bars:
        ImageDraw.Draw(image).rectangle(bar, fill="black")
    return image


ROWS = [(100, y, 800, y + 26) for y in range(40, 15_900, 137)]


@pytest.mark.parametrize(
    ("size", "bars"),
    [
        ((1080, 16_000), ROWS),
        ((16_000, 1080), [(top, left, bottom, right) for left, top, right, bottom in ROWS]),
        ((6000, 8000), [(100, y, 5800, y + 24) for y in range(40, 7900, 171)]),  # over the seams
        ((1080, 9000), [(140, 500, 940, 1300), (100, 3000, 400, 3026), (100, 8900, 400, 8926)]),
    ],
)
def test_small_text_in_a_large_picture_is_found_once(
    size: tuple[int, int], bars: list[tuple[int, int, int, int]]
) -> None:
    found = TextDetector(DarkIsText(), {}).find(sheet(size, *bars))  # type: ignore[arg-type]
    assert len(found) == len(bars)
    for box, bar in zip(sorted((region.box for region in found), key=sum), sorted(bars, key=sum), strict=True):
        middles = [
            (box[0] + box[2]) / 2 - (bar[0] + bar[2]) / 2,
            (box[1] + box[3]) / 2 - (bar[1] + bar[3]) / 2,
        ]
        assert np.abs(middles).max() < 8, (box, bar)


def test_a_picture_that_is_not_shrunk_far_is_looked_at_once() -> None:
    model = DarkIsText()
    TextDetector(model, {}).find(sheet((1080, 7000), (100, 100, 800, 140)))  # type: ignore[arg-type]
    TextDetector(model, {}).find(sheet((4960, 7016), (100, 100, 800, 140)))  # type: ignore[arg-type]
    assert model.sizes == [(160, 960), (672, 960)]


def test_the_tiles_of_a_second_look_are_small() -> None:
    model = DarkIsText()
    TextDetector(model, {}).find(sheet((8000, 12_000), (100, 100, 800, 140)))  # type: ignore[arg-type]
    assert max(max(size) for size in model.sizes) <= 960
    assert sum(width * height for width, height in model.sizes) < 8000 * 12_000 / 3.5**2 * 1.6


def region(*box: int) -> TextRegion:
    left, top, right, bottom = box
    return TextRegion(np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32), 0.9)


def test_of_two_looks_the_closer_counts_but_for_what_it_has_only_pieces_of() -> None:
    rows = [region(0, y, 100, y + 8) for y in (0, 12, 24)]
    assert of_both_looks([region(0, 0, 100, 32)], rows) == rows  # seen as one
    assert of_both_looks([region(50, 0, 110, 9)], rows) == rows  # seen in part
    letter = region(0, 0, 1000, 1000)
    assert of_both_looks([letter], [*rows, far := region(2000, 0, 2100, 9)]) == [letter, far]
    assert of_both_looks([letter], []) == [letter]
    assert of_both_looks([], rows) == rows
