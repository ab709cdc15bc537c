"""The quick filter banks are those of the library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor
from transformers.utils.import_utils import is_speech_available

from engines.transformers.filter_banks import quicken

RATE = 16_000


def sound(samples: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(samples)
    tone = np.sin(np.arange(samples) * 0.3) * 0.4 + 0.1
    return np.asarray(tone + rng.normal(0, 0.05, samples), np.float32)


def ast(**settings: Any) -> Any:
    return ASTFeatureExtractor(**settings)  # type: ignore[no-untyped-call]


@pytest.mark.skipif(is_speech_available(), reason="with torchaudio the extractor keeps a way of its own")
@pytest.mark.parametrize(
    ("samples", "max_length"),
    [
        (RATE, 1024),
        (12 * RATE, 1024),
        (400, 16),
        (399, 16),
        (401, 1),
        (559, 2),
        (560, 2),
        (16 * 160 + 400, 16),
    ],
)
@pytest.mark.parametrize("settings", [{"num_mel_bins": 40}, {"num_mel_bins": 64, "do_normalize": False}])
def test_features_are_those_of_the_library(samples: int, max_length: int, settings: dict[str, Any]) -> None:
    library, ours = ast(max_length=max_length, **settings), ast(max_length=max_length, **settings)
    quicken(ours)
    assert "_extract_fbank_features" in vars(ours)
    wanted, found = (
        extractor(sound(samples), sampling_rate=RATE, return_tensors="np")["input_values"]
        for extractor in (library, ours)
    )
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_silence_gives_the_floor_and_no_warning() -> None:
    extractor = ast(max_length=8, num_mel_bins=64, do_normalize=False)
    quicken(extractor)
    found = extractor(np.zeros(2_000, np.float32), sampling_rate=RATE, return_tensors="np")["input_values"]
    assert np.allclose(found, np.log(np.float32(1.192092955078125e-07)))


def test_other_extractors_stay_as_they_are() -> None:
    extractor = Wav2Vec2FeatureExtractor()  # type: ignore[no-untyped-call]
    quicken(extractor)
    assert "_extract_fbank_features" not in vars(extractor)
