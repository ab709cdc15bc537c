"""audio-classification by models such as AST and wav2vec2."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from transformers import PreTrainedModel

from engines.transformers.classification import ClassificationRunner, Features
from engines.transformers.filter_banks import quicken
from engines.transformers.loading import ModelFolder

_SHORTEST_S = 0.1
"""Models look at windows of 25 ms and more; what is shorter is followed by silence."""


class AudioClassificationRunner(ClassificationRunner):
    """Labels float32 mono recordings within -1..1, resampled to the model's own rate.

    Models that hear a fixed length hear the beginning of a longer recording.
    """

    kinds = ("AutoModelForAudioClassification",)
    purpose = "an audio classifier"

    def __init__(self, name: str, model: PreTrainedModel, extractor: Any) -> None:
        super().__init__(name, model)
        self.extractor = extractor

    @classmethod
    def load(cls, folder: ModelFolder) -> AudioClassificationRunner:
        """Return the runner of an audio classifier and its feature extractor."""
        model = folder.model(*cls.kinds, purpose=cls.purpose)
        extractor = folder.feature_extractor()
        quicken(extractor)
        return cls(folder.name, model, extractor)

    def features(self, inputs: dict[str, Any]) -> tuple[Features, dict[str, Any]]:
        """Return what the extractor makes of the recording, and duration_s."""
        samples, rate = inputs["audio"], self.extractor.sampling_rate
        if inputs["sampling_rate"] != rate:
            samples = soxr.resample(samples, inputs["sampling_rate"], rate)
        if (missing := round(_SHORTEST_S * rate) - len(samples)) > 0:
            samples = np.pad(samples, (0, missing))
        features = self.extractor(samples, sampling_rate=rate, return_tensors="pt")
        return dict(features), {"duration_s": inputs["duration_s"]}
