"""The quick filter banks are those of the library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor
from transformers.utils.import_utils import is_speech_available

from engines.transformers.filter_banks import FilterBanks

RATE = 16_000


def sound(samples: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(samples)
    tone = np.sin(np.arange(samples) * 0.3) * 0.4 + 0.1
    return np.asarray(tone + rng.normal(0, 0.05, samples), np.float32)


def ast(**settings: Any) -> Any:
    return ASTFeatureExtractor(**settings)  # type: ignore[no-untyped-call]


def by_library(extractor: Any, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    features = extractor(waveform, sampling_rate=RATE, return_tensors="np")["input_values"]
    return np.asarray(features[0])


pytestmark = pytest.mark.skipif(
    is_speech_available(), reason="with torchaudio the extractor keeps a way of its own"
)


@pytest.mark.parametrize(
    ("samples", "max_length"),
    [
        ([RATE], 1024),
        ([12 * RATE], 1024),
        ([400], 16),
        ([399], 16),
        ([401], 1),
        ([559], 2),
        ([560], 2),
        ([16 * 160 + 400], 16),
        ([RATE, 399, 3 * RATE, 400, 6 * RATE, 12 * RATE, 5000], 1024),
        ([300 + number for number in range(0, 40 * 160, 160)], 16),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_mel_bins": 40},
        {"num_mel_bins": 64, "do_normalize": False},
        {"num_mel_bins": 80},
        {"num_mel_bins": 3},
    ],
)
def test_features_are_those_of_the_library_whoever_else_is_there(
    samples: list[int], max_length: int, settings: dict[str, Any]
) -> None:
    extractor = ast(max_length=max_length, **settings)
    banks = FilterBanks.of(extractor)
    assert banks is not None
    waveforms = [sound(count) for count in samples]
    together = banks(waveforms)
    for found, waveform in zip(together, waveforms, strict=True):
        wanted = by_library(extractor, waveform)
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(found, banks([waveform])[0])


def test_silence_gives_the_floor_and_no_warning() -> None:
    banks = FilterBanks.of(ast(max_length=8, num_mel_bins=64, do_normalize=False))
    assert banks is not None
    assert np.allclose(banks([np.zeros(2_000, np.float32)]), np.log(np.float32(1.192092955078125e-07)))


def test_a_recording_is_not_changed() -> None:
    banks = FilterBanks.of(ast(max_length=8, num_mel_bins=64))
    assert banks is not None
    waveform = sound(2_000)
    before = waveform.copy()
    banks([waveform])
    np.testing.assert_array_equal(waveform, before)


def test_other_extractors_keep_a_way_of_their_own() -> None:
    assert FilterBanks.of(Wav2Vec2FeatureExtractor()) is None  # type: ignore[no-untyped-call]
