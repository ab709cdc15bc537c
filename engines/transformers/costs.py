"""What an input takes of a batch, in the unit that decides its memory and its time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engines.settings import TransformersSettings

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
