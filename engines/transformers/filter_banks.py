"""Mel filter banks of all frames at once: what AST's extractor computes by a Python loop over frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.models.audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer import (
    ASTFeatureExtractor,
)
from transformers.utils.import_utils import is_speech_available

_FRAME, _HOP, _FFT = 400, 160, 512
"""In samples: 25 ms every 10 ms at 16 kHz, whatever the rate; as Kaldi's filter banks have it."""
_PREEMPHASIS = 0.97
_FLOOR = 1.192092955078125e-07


def quicken(extractor: Any) -> None:
    """Have this extractor, where it is AST's, compute its filter banks by `filter_banks`, if it would by NumPy.

    With torchaudio installed the extractor has a quick way of its own, and keeps it.
    """
    if not isinstance(extractor, ASTFeatureExtractor) or is_speech_available():
        return
    ast: Any = extractor

    def extract(waveform: NDArray[np.float32], max_length: int) -> NDArray[np.float32]:
        return filter_banks(waveform, ast.window, ast.mel_filters, max_length)

    ast._extract_fbank_features = extract


def filter_banks(
    waveform: NDArray[np.float32], window: NDArray[Any], mel_filters: NDArray[Any], frames: int
) -> NDArray[np.float32]:
    """Return log mel energies, float32 (frames, filters), of the beginning of `waveform` (samples,).

    `mel_filters` is (257, filters). What is shorter than `frames` is followed by zeros; of what is longer no
    more is computed than is returned.

    Source: https://kaldi-asr.org/doc/feat.html (filter banks); the library's `audio_utils.spectrogram` has the
    same steps in the same precisions.
    """
    banks = np.zeros((frames, mel_filters.shape[1]), np.float32)
    heard = waveform[: (frames - 1) * _HOP + _FRAME].astype(np.float64)
    if len(heard) < _FRAME:
        return banks
    framed = np.lib.stride_tricks.sliding_window_view(heard, _FRAME)[::_HOP].copy()
    framed -= framed.mean(axis=1, keepdims=True)
    framed[:, 1:] -= _PREEMPHASIS * framed[:, :-1]
    framed[:, 0] *= 1 - _PREEMPHASIS
    framed *= window
    amplitudes = np.abs(np.fft.rfft(framed, _FFT).astype(np.complex64), dtype=np.float64)
    energies = np.maximum(_FLOOR, mel_filters.T @ (amplitudes**2).T)
    banks[: len(framed)] = np.log(energies).T
    return banks
