"""audio-classification by models such as AST and wav2vec2."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from engines.transformers.classification import ClassificationRunner, Features
from engines.transformers.loading import ModelFolder
from engines.transformers.shared_vlms import SharedModels

_HOP_S = 0.01
"""Seconds from one frame of an audio spectrogram transformer to the next."""

_WINDOW_S = 30.0
"""What models are given at once that would hear any length: their memory grows with its square."""

_MOST_WINDOWS = 256
"""Windows of one recording; with more, a long one would take minutes, and the scores would hardly change."""

_SHORTEST_S = 0.1
"""Models look at windows of 25 ms and more; what is shorter is followed by silence."""


class AudioClassificationRunner(ClassificationRunner):
    """Labels float32 mono recordings within -1..1, resampled to the model's own rate.

    A longer recording than the model hears at once is heard in windows at equal distances, from its beginning to
    its end; its scores are their means.
    """

    kinds = ("AutoModelForAudioClassification",)
    windows_at_once = 8

    def __init__(self, name: str, model: PreTrainedModel, extractor: Any) -> None:
        super().__init__(name, model)
        self.extractor = extractor

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner of an audio classifier and its feature extractor."""
        model = folder.model(*cls.kinds, needs="an audio classifier")
        return cls(folder.name, model, folder.feature_extractor())

    def features(self, inputs: dict[str, Any]) -> tuple[Features, dict[str, Any]]:
        """Return what the extractor makes of each window of the recording, and how much of it they are."""
        windows, rate = self._windows(inputs), self.extractor.sampling_rate
        features = [dict(self.extractor(one, sampling_rate=rate, return_tensors="pt")) for one in windows]
        joined = {name: torch.cat([one[name] for one in features]) for name in features[0]}
        heard_s = sum(map(len, windows)) / rate
        duration_s: float = inputs["duration_s"]
        return joined, {
            "duration_s": duration_s,
            "windows": len(windows),
            "heard_s": round(min(duration_s, heard_s), 3),
        }

    def _windows(self, inputs: dict[str, Any]) -> list[NDArray[np.float32]]:
        """Return the windows of a recording, all of one length, at the model's own rate."""
        samples, window = self._samples(inputs), self._window
        count = min(_MOST_WINDOWS, math.ceil(len(samples) / window))
        if count < 2:
            return [samples]
        starts = np.linspace(0, len(samples) - window, count).round().astype(int)
        return [samples[start : start + window] for start in starts]

    @property
    def _window(self) -> int:
        """The samples that the model hears at once."""
        extractor = self.extractor
        if (frames := getattr(extractor, "max_length", None)) and hasattr(extractor, "num_mel_bins"):
            return int(frames) * int(_HOP_S * extractor.sampling_rate)
        own = getattr(extractor, "n_samples", None)
        return int(own or _WINDOW_S * extractor.sampling_rate)

    def _samples(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        """Return the recording at the model's own rate, not shorter than it can hear."""
        samples: NDArray[np.float32] = inputs["audio"]
        rate = self.extractor.sampling_rate
        if inputs["sampling_rate"] != rate:
            samples = soxr.resample(samples, inputs["sampling_rate"], rate)
        if (missing := round(_SHORTEST_S * rate) - len(samples)) > 0:
            samples = np.pad(samples, (0, missing))
        return samples
