"""asr: a recording in, what was said in it out."""

from __future__ import annotations

from typing import Any

from handlers.options import options_of
from handlers.recording import RecordingHandler


class AsrHandler(RecordingHandler):
    """Takes `audio`, as every `RecordingHandler` does."""

    task = "asr"
    options = options_of("asr")

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return text, language, segments [{start, end, text}] in s, words where asked for, metadata.

        Segments of Whisper models also have avg_logprob, no_speech_prob and compression_ratio. The language is
        None where the model tells none, or heard nobody.
        """
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
