"""Reads whole pages with two models: one finds the lines, the other reads them."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from PIL import Image
from torch import nn

from engines.transformers.documents.reading_order import Box, reading_order
from engines.transformers.documents.text_detection import TextDetector, TextRegion
from engines.transformers.documents.text_recognition import ReadLine, TextRecognizer
from engines.transformers.loading import ModelFolder
from engines.transformers.shared_models import SharedModels
from handlers.errors import ModelLoadFailed

DETECTION, RECOGNITION = "detection", "recognition"
"""The folders of the two models inside the model's folder."""

_UPRIGHT = 1.5
"""A region at least this many times as high as wide is also read turned."""

_TILTED = math.radians(1.5)
"""From this angle on a line counts as tilted; smaller ones are noise of the model's outline."""

_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)


@dataclass(frozen=True, slots=True)
class PageText:
    """The text of a page and its lines {text, box in pixels, score 0 to 1}, in reading order; a tilted one has its
    polygon, too: corners [x, y] clockwise from the top left."""

    text: str
    lines: list[dict[str, Any]]

    @classmethod
    def arranged(cls, lines: Sequence[dict[str, Any]], boxes: Sequence[Box]) -> Self:
        """Return `lines` in reading order, which their `boxes` tell."""
        rows = reading_order(boxes, [line["text"] for line in lines])
        text = "\n".join(" ".join(lines[index]["text"] for index in row) for row in rows)
        return cls(text, [lines[index] for row in rows for index in row])


class PageReader:
    """Reads images of pages of any size, also turned by some degrees, one at a time; tasks share it."""

    def __init__(self, detector: TextDetector, recognizer: TextRecognizer) -> None:
        self._detector = detector
        self._recognizer = recognizer
        self._reading = threading.Lock()
        self.model: Any = nn.ModuleDict({DETECTION: detector.model, RECOGNITION: recognizer.model})

    @classmethod
    def take(cls, folder: ModelFolder, shared: SharedModels) -> tuple[PageReader, Callable[[], None]]:
        """Return the reader whose models lie in `detection/` and `recognition/`, which other tasks may use already, and
        what releases it.

        Raises:
            ModelLoadFailed: permanent; one of them is of another kind, or incomplete.
        """

        def load() -> PageReader:
            detection, recognition = (
                dataclasses.replace(folder, name=f"{folder.name} ({part})", path=folder.path / part)
                for part in (DETECTION, RECOGNITION)
            )
            detector = detection.model("AutoModelForObjectDetection", needs="a text detection model")
            return cls(TextDetector(detector, image_settings(detection)), recognizer_of(recognition))

        return shared.take(folder.path, load, part="pages")

    def read(self, image: Image.Image) -> PageText:
        """Return the text of an RGB picture."""
        with self._reading:
            regions = self._detector.find(image)
            read = self._read([region.cut_out(image) for region in regions])
        kept = [(region, line) for region, line in zip(regions, read, strict=True) if line.text]
        lines = [{"text": line.text, "box": region.box, "score": line.score, **_tilt(region)} for region, line in kept]
        return PageText.arranged(lines, _level([region for region, _ in kept]))

    def close(self) -> None:
        """Release the models; each task that shared them does so."""

    def _read(self, cuttings: Sequence[Image.Image]) -> list[ReadLine]:
        """Return the text of each region; a high one may be a vertical line: the most certain reading counts."""
        ways = [
            [one, *(one.transpose(turn) for turn in _TURNS if one.height >= _UPRIGHT * one.width)] for one in cuttings
        ]
        read = iter(self._recognizer.read([way for of_one in ways for way in of_one]))
        return [max(islice(read, len(of_one)), key=lambda line: line.score) for of_one in ways]


def has_page_reader(folder: Path) -> bool:
    """Return whether a model's folder has the two models of a page reader."""
    return (folder / DETECTION).is_dir() and (folder / RECOGNITION).is_dir()


def recognizer_of(folder: ModelFolder) -> TextRecognizer:
    model = folder.model("AutoModelForTextRecognition", needs="a text recognition model")
    return TextRecognizer(folder.name, model, image_settings(folder))


def image_settings(folder: ModelFolder) -> dict[str, Any]:
    """Return the settings of the image processor beside the model; transformers' own class needs torchvision.

    Raises:
        ModelLoadFailed: permanent; there are none, or they are not a JSON object.
    """
    path = folder.path / "preprocessor_config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise ModelLoadFailed(f"model {folder.name} has no readable {path.name}: {error}") from error


def _tilt(region: TextRegion) -> dict[str, Any]:
    """Return the polygon of a region that is tilted, and not just a little out of the pixels' rows."""
    across, down = region.corners[1] - region.corners[0]
    if abs(math.remainder(math.atan2(down, across), math.pi / 2)) < _TILTED:
        return {}
    return {"polygon": [[round(float(x)), round(float(y))] for x, y in region.corners]}


def _level(regions: Sequence[TextRegion]) -> list[list[float]]:
    """Return the boxes of `regions` as they are once the page is turned so that most lines are level."""
    if not regions:
        return []
    sides = np.stack([region.corners[1] - region.corners[0] for region in regions])
    widths, angles = np.hypot(sides[:, 0], sides[:, 1]), np.arctan2(sides[:, 1], sides[:, 0])
    angle = float(np.median(angles[widths >= np.median(widths)]))
    back = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = [region.corners @ back.T for region in regions]
    return [[*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()] for corners in turned]
