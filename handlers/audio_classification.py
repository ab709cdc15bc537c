"""audio-classification: a recording in, what kind of sound it is out."""

from __future__ import annotations

from typing import Any

from handlers.audio import SAMPLE_RATE, read_audio
from handlers.base import BaseModelHandler
from handlers.options import options_of
from handlers.settings import MediaSettings


class AudioClassificationHandler(BaseModelHandler):
    """Takes `audio`: an encoded recording, or a numpy array and its `sampling_rate` (Hz, default 16000).

    `top_k`, how many labels to return, is an option that may stand in the data.
    """

    task = "audio-classification"
    media_fields = ("audio",)
    options = options_of("audio-classification")
    options_in_data = ("top_k",)

    def __init__(self, limits: MediaSettings | None = None) -> None:
        self.limits = limits or MediaSettings()

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `audio` (float32 mono (samples,) within -1..1), `sampling_rate` (16000), `duration_s`."""
        self.validate_input(data, ["audio"])
        samples = read_audio(
            data["audio"],
            field="data.audio",
            sampling_rate=data.get("sampling_rate"),
            max_s=self.limits.max_audio_s,
        )
        return {"audio": samples, "sampling_rate": SAMPLE_RATE, "duration_s": len(samples) / SAMPLE_RATE}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return labels [{label, score}], the likeliest first, and metadata (duration_s)."""
        metadata = {name: value for name, value in result.items() if name not in ("labels", "metadata")}
        return {"labels": result["labels"], "metadata": {**metadata, **result.get("metadata", {})}}
