"""asr: which runner transcribes, by the kind of the model."""

from __future__ import annotations

from engines.transformers.loading import ModelFolder
from engines.transformers.runner import TaskRunner


class SpeechRecognitionRunner(TaskRunner):
    """Transcribes float32 mono recordings within -1..1 at the model's own sampling rate, of any length."""

    kinds = ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC")
    purpose = "a Whisper or CTC speech model"

    @classmethod
    def load(cls, folder: ModelFolder) -> TaskRunner:
        """Return the runner of a Whisper model or of one that was trained by CTC, as wav2vec2 is."""
        if cls.kind_of(folder) == "AutoModelForCTC":
            from engines.transformers.ctc import CtcRunner

            return CtcRunner.load(folder)
        from engines.transformers.whisper import WhisperRunner

        return WhisperRunner.load(folder)
