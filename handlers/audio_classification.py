"""audio-classification: a recording in, what kind of sound it is out."""

from __future__ import annotations

from typing import Any

from handlers.options import options_of
from handlers.recording import RecordingHandler


class AudioClassificationHandler(RecordingHandler):
    """Takes `audio`, as every `RecordingHandler` does.

    `top_k`, how many labels to return, is an option that may stand in the data.
    """

    task = "audio-classification"
    options = options_of("audio-classification")
    options_in_data = ("top_k",)

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return labels [{label, score}], the likeliest first, and metadata (duration_s)."""
        metadata = {name: value for name, value in result.items() if name not in ("labels", "metadata")}
        return {"labels": result["labels"], "metadata": {**metadata, **result.get("metadata", {})}}
