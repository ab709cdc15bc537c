"""audio-classification by models such as AST and wav2vec2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from engines.transformers.classification import ClassificationRunner, Features, FeaturesOrError
from engines.transformers.filter_banks import FilterBanks
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
        self._filter_banks = FilterBanks.of(extractor)

    @classmethod
    def load(cls, folder: ModelFolder) -> AudioClassificationRunner:
        """Return the runner of an audio classifier and its feature extractor."""
        model = folder.model(*cls.kinds, purpose=cls.purpose)
        return cls(folder.name, model, folder.feature_extractor())

    def features_of_all(self, inputs: Sequence[dict[str, Any]]) -> list[FeaturesOrError]:
        """Return the features of each recording; filter banks are computed for several at once."""
        if self._filter_banks is None:
            return super().features_of_all(inputs)
        banks = torch.from_numpy(self._filter_banks([self._samples(one) for one in inputs]))
        return [
            ({"input_values": bank[None]}, {"duration_s": one["duration_s"]})
            for bank, one in zip(banks, inputs, strict=True)
        ]

    def features(self, inputs: dict[str, Any]) -> tuple[Features, dict[str, Any]]:
        """Return what the extractor makes of the recording, and duration_s."""
        samples, rate = self._samples(inputs), self.extractor.sampling_rate
        features = self.extractor(samples, sampling_rate=rate, return_tensors="pt")
        return dict(features), {"duration_s": inputs["duration_s"]}

    def _samples(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        """Return the recording at the model's own rate, not shorter than it can hear."""
        samples: NDArray[np.float32] = inputs["audio"]
        rate = self.extractor.sampling_rate
        if inputs["sampling_rate"] != rate:
            samples = soxr.resample(samples, inputs["sampling_rate"], rate)
        if (missing := round(_SHORTEST_S * rate) - len(samples)) > 0:
            samples = np.pad(samples, (0, missing))
        return samples
