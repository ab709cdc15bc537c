"""Where the lines of text are in a picture: a map of probabilities, its connected regions, their rectangles.

Source: https://arxiv.org/abs/1911.08947 (differentiable binarization: threshold, score, unclip)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from transformers import PreTrainedModel

from engines.transformers.device import to_model
from engines.transformers.documents.rectangles import around, connected_regions, grown
from engines.transformers.process_state import running

Corners = NDArray[np.float32]
"""Four points (x, y) from the top left on, clockwise, (4, 2)."""

_MEAN = np.array([0.406, 0.456, 0.485], np.float32)
_DEVIATION = np.array([0.225, 0.224, 0.229], np.float32)
"""ImageNet's, in the order of the model's channels: blue, green, red."""

_TEXT = 0.3
"""Probability from which a pixel belongs to a text."""

_REGION = 0.6
"""Mean probability from which a region is one."""

_GROWTH = 1.5
"""The model draws lines thinner than they are, so that neighbours do not touch."""

_SMALLEST = 3
"""Shorter side of a region before it grows, in pixels of the map."""

_STEP = 32
"""The model halves the picture five times."""


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
        corners, (width, height) = around(outline)
        if min(width, height) < _SMALLEST:
            continue
        score = _mean_inside(probabilities, corners)
        if score >= _REGION:
            margin = width * height * _GROWTH / (2 * (width + height))
            regions.append(TextRegion(grown(corners, margin), score))
    return regions


def _mean_inside(probabilities: NDArray[np.float32], corners: Corners) -> float:
    """Return the mean probability inside the rectangle."""
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
