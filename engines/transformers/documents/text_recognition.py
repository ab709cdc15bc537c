"""Reads the image of one line of text: prepared as PP-OCR recognizers expect, decoded by CTC.

Source: https://www.cs.toronto.edu/~graves/icml_2006.pdf (CTC, best path decoding)
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedModel

from engines.transformers.device import to_model
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.process_state import running
from handlers.errors import ModelLoadFailed

_HEIGHT, _NARROWEST, _WIDEST = 48, 320, 3200
"""Sizes of a line in pixels, where the settings beside the model have none."""

_WIDTH_STEP = 160
"""Lines are padded to a multiple of this, never to each other: the result must not depend on other lines."""

_PIXELS_AT_ONCE = 16 * _HEIGHT * _NARROWEST
"""Pixels of the lines in one pass: bounds memory."""


@dataclass(frozen=True, slots=True)
class ReadLine:
    """The text of a line, empty where there is none, with the mean probability of its letters (0 to 1)."""

    text: str
    score: float


class TextRecognizer:
    """Reads lines with a text recognition model of the PP-OCR kind, whose outputs are probabilities."""

    def __init__(self, name: str, model: PreTrainedModel, settings: Mapping[str, Any]) -> None:
        """`settings` are those of the image processor that lies beside the model; its `character_list` names
        the model's classes, the blank first.

        Raises:
            ModelLoadFailed: permanent; the characters are missing, or not as many as the model's classes.
        """
        self.model = model
        self.characters: Sequence[str] = settings.get("character_list") or ()
        self.height: int = settings.get("size", {}).get("height", _HEIGHT)
        self._narrowest: int = settings.get("size", {}).get("width", _NARROWEST)
        self._widest: int = settings.get("max_image_width", _WIDEST)
        self._budget = ShrinkOnOutOfMemory(name, of="lines", most=_PIXELS_AT_ONCE)
        classes = getattr(model.config, "head_out_channels", len(self.characters))
        if not self.characters or classes != len(self.characters):
            raise ModelLoadFailed(
                f"model {name} has {len(self.characters)} characters for {classes} classes; its "
                "preprocessor_config.json must name them all in character_list, the blank first"
            )

    @running()
    def read(self, lines: Sequence[Image.Image]) -> list[ReadLine]:
        """Return the text of each RGB image of one line."""
        by_width: dict[int, list[int]] = defaultdict(list)
        for index, line in enumerate(lines):
            by_width[self._padded_width(line)].append(index)
        found: dict[int, ReadLine] = {}
        for width, indices in sorted(by_width.items()):
            read = self._budget.run(
                functools.partial(self._read, width=width),
                [lines[index] for index in indices],
                [float(self.height * width)] * len(indices),
            )
            found.update(zip(indices, read, strict=True))
        return [found[index] for index in range(len(lines))]

    def prepare(self, line: Image.Image, width: int) -> torch.Tensor:
        """Return the line as (3, height, width) within -1..1, blue first, grey where it does not reach."""
        drawn = min(width, self._drawn_width(line))
        resized = line.resize((drawn, self.height), Image.Resampling.BILINEAR)
        pixels: NDArray[np.float32] = np.asarray(resized, np.float32)[:, :, ::-1] / np.float32(127.5) - 1
        return torch.nn.functional.pad(torch.from_numpy(pixels).permute(2, 0, 1), (0, width - drawn))

    def _drawn_width(self, line: Image.Image) -> int:
        return min(self._widest, math.ceil(self.height * line.width / line.height))

    def _padded_width(self, line: Image.Image) -> int:
        steps = math.ceil(self._drawn_width(line) / _WIDTH_STEP)
        return max(self._narrowest, min(self._widest, steps * _WIDTH_STEP))

    def _read(self, lines: Sequence[Image.Image], width: int) -> list[ReadLine]:
        pixels = torch.stack([self.prepare(line, width) for line in lines])
        with torch.inference_mode():
            seen = to_model(self.model, {"pixel_values": pixels})
            probabilities = self.model(**seen).last_hidden_state
        return [best_path(one, self.characters) for one in probabilities.float().cpu()]


def best_path(probabilities: torch.Tensor, characters: Sequence[str]) -> ReadLine:
    """Return the text along the likeliest class of each step, without space around it. `probabilities` is (steps,
    classes); class 0 is the blank."""
    chances, classes = probabilities.max(dim=-1)
    before = torch.nn.functional.pad(classes[:-1], (1, 0), value=0)
    kept = (classes != 0) & (classes != before)
    text = "".join(characters[index] for index in classes[kept].tolist()).strip()
    return ReadLine(text, float(chances[kept].mean()) if text else 0.0)
