"""What an input takes of a batch, in the unit that decides its memory and its time; and what fits a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from engines.settings import TransformersSettings

log = structlog.get_logger(__name__)

_WINDOW_S = 30.0
"""Whisper hears windows of this length, however short a recording is."""


def cost_of(inputs: Mapping[str, Any]) -> float:
    """Return the seconds of sound, the pixels, the frames or the pages of an input; 1 where it has none."""
    if "audio" in inputs:
        return len(inputs["audio"]) / float(inputs.get("sampling_rate", 16_000))
    if "frames" in inputs:
        return float(len(inputs["frames"]))
    if "pages" in inputs:
        return float(len(inputs["pages"]))
    if "image" in inputs:
        width, height = inputs["image"].size
        return float(width * height)
    return 1.0


def cost_in(task: str, inputs: Mapping[str, Any]) -> float:
    """Return what an input takes of a batch of `task`."""
    cost = cost_of(inputs)
    return max(_WINDOW_S, cost) if task == "asr" else cost


def most_cost_in(task: str, settings: TransformersSettings) -> float:
    """Return what a batch of `task` may take, in the same unit."""
    limits: Mapping[str, float] = {
        "asr": settings.batch_audio_s,
        "audio-classification": settings.batch_audio_s,
        "ocr": settings.batch_pixels,
        "video-analysis": settings.batch_frames,
        "document-analysis": settings.batch_pages,
    }
    return limits.get(task, math.inf)


class BatchBudget:
    """What one loaded model takes at once: everything, until a batch did not fit the memory.

    Used by the one thread that runs the model.
    """

    def __init__(self, name: str) -> None:
        self.most_cost = math.inf
        self._name = name

    def parts(self, costs: Sequence[float]) -> list[slice]:
        """Return the batch in parts that fit, in order; an input that takes more is a part by itself."""
        parts: list[slice] = []
        start, largest = 0, 0.0
        for index, cost in enumerate(costs):
            largest = max(largest, cost)
            if index > start and (index + 1 - start) * largest > self.most_cost:
                parts.append(slice(start, index))
                start, largest = index, cost
        parts.append(slice(start, len(costs)))
        return parts

    def exceeded(self, costs: Sequence[float]) -> None:
        """Learn that a batch with these costs did not fit: from now on half of it is the most."""
        if len(costs) > 1:  # what one input alone takes says nothing about smaller ones together
            self.most_cost = min(self.most_cost, len(costs) * max(costs) / 2)
            log.warning("batches_made_smaller", model=self._name, inputs=len(costs), most_cost=self.most_cost)
