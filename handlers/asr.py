"""asr: a recording in, what was said in it out."""

from __future__ import annotations

from typing import Any

from handlers.audio import SAMPLE_RATE, read_audio
from handlers.base import BaseModelHandler
from handlers.options import options_of
from handlers.settings import MediaSettings


class AsrHandler(BaseModelHandler):
    """Takes `audio`: an encoded recording, or a numpy array and its `sampling_rate` (Hz, default 16000)."""

    task = "asr"
    media_fields = ("audio",)
    options = options_of("asr")

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
        """Return text, language, segments [{start, end, text}] in s, words where asked for, metadata."""
        output = {
            "text": result["text"],
            "language": result.get("language"),
            "segments": result.get("segments", []),
        }
        if "words" in result:
            output["words"] = result["words"]
        known = (*output, "metadata")
        metadata = {name: value for name, value in result.items() if name not in known}
        output["metadata"] = {**metadata, **result.get("metadata", {})}
        return output
