"""asr and audio-classification: take a recording, return the speech in it or the kind of sound."""

from __future__ import annotations

from typing import Any

from handlers.base import MediaHandler, notes, with_metadata
from handlers.decoding.audio import SAMPLE_RATE, read_sound
from handlers.options.options import options_of


class RecordingHandler(MediaHandler):
    """Takes `audio`: an encoded recording, or a numpy array and its `sampling_rate` (Hz, default 16000)."""

    media_fields = ("audio",)
    data_fields = ("audio", "sampling_rate")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return `audio` (float32 mono (samples,) within -1..1), `sampling_rate` (16000), `duration_s`, `truncated`
        where a part is missing, and `track` where there are several."""
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
        return {**inputs, **notes(truncated=sound.truncated, track=sound.track)}


class AsrHandler(RecordingHandler):
    """Takes `audio`, as every `RecordingHandler` does."""

    task = "asr"
    options = options_of("asr")

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return text, language, segments [{start, end, text}] in s, words where asked for, metadata.

        Segments of Whisper models also have avg_logprob, no_speech_prob and compression_ratio, and their metadata has
        finish_reason: length where text was cut, else stop. The language is None where the model has none, or there is
        no speech.
        """
        output = {"text": result["text"], "language": result.get("language"), "segments": result.get("segments", [])}
        if "words" in result:
            output["words"] = result["words"]
        return with_metadata(output, result)


class AudioClassificationHandler(RecordingHandler):
    """Takes `audio`, as every `RecordingHandler` does.

    `top_k`, how many labels to return, is an option that may stand in the data.
    """

    task = "audio-classification"
    options = options_of("audio-classification")
    options_in_data = ("top_k",)

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return labels [{label, score}], the likeliest first, and metadata (duration_s; windows, the number of windows
        that were classified, and heard_s, how much of the recording they are)."""
        return with_metadata({"labels": result["labels"]}, result)
