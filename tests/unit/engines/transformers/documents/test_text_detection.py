"""From a map of probabilities to regions of text, and from a region to the picture of a line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from engines.transformers.documents.text_detection import TextDetector, TextRegion, regions_of


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
