"""What tasks about one recording have in common: which field it is in, and what the model is given of it."""

from __future__ import annotations

from typing import Any

from handlers.audio import SAMPLE_RATE, read_sound
from handlers.base import BaseModelHandler
from handlers.settings import MediaSettings


class RecordingHandler(BaseModelHandler):
    """Takes `audio`: an encoded recording, or a numpy array and its `sampling_rate` (Hz, default 16000)."""

    media_fields = ("audio",)

    def __init__(self, limits: MediaSettings | None = None) -> None:
        self.limits = limits or MediaSettings()

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `audio` (float32 mono (samples,) within -1..1), `sampling_rate` (16000), `duration_s`, and
        `truncated` where the end is missing."""
        self.validate_input(data, ["audio"])
        sound = read_sound(
            data["audio"],
            field="data.audio",
            sampling_rate=data.get("sampling_rate"),
            max_s=self.limits.max_audio_s,
            max_samples=self.limits.max_audio_samples,
        )
        duration_s = len(sound.samples) / SAMPLE_RATE
        inputs = {"audio": sound.samples, "sampling_rate": SAMPLE_RATE, "duration_s": duration_s}
        return {**inputs, "truncated": sound.truncated} if sound.truncated else inputs
