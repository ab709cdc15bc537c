"""Mel filter banks of several recordings at once: what AST's extractor computes by a Python loop over frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

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

_FRAMES_AT_ONCE = 200
"""Two seconds of sound: a core's own cache has room for the numbers that are made of them. With fewer, other threads
have more chances to take the interpreter's lock between two steps."""

_FILTERS_AT_ONCE = 8
"""A filter is a triangle over a few frequencies, so products with a few neighbours at a time pass over most zeros."""


class FilterBanks:
    """The features of an audio spectrogram transformer; thread-safe.

    Source: https://kaldi-asr.org/doc/feat.html (filter banks); the library's `audio_utils.spectrogram` has the
    same steps in the same precisions.
    """

    def __init__(
        self,
        *,
        window: NDArray[Any],
        mel_filters: NDArray[Any],
        frames: int,
        normal: tuple[float, float] | None = None,
    ) -> None:
        """`window` is (400,), `mel_filters` (257, filters); `frames` is how many are heard of a recording.

        `normal` is the mean and the standard deviation of features that are to be normalised.
        """
        self._window = window
        self._parts = list(_parts(mel_filters))
        self._filters = mel_filters.shape[1]
        self._frames = frames
        self._normal = normal

    @classmethod
    def of(cls, extractor: Any) -> Self | None:
        """Return what does the work of `extractor`; None where that is not AST's, or has torchaudio, which is quick."""
        if not isinstance(extractor, ASTFeatureExtractor) or is_speech_available():
            return None
        ast: Any = extractor
        return cls(
            window=ast.window,
            mel_filters=ast.mel_filters,
            frames=ast.max_length,
            normal=(ast.mean, ast.std) if ast.do_normalize else None,
        )

    def __call__(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return log mel energies, (recordings, frames, filters), of the beginnings of `waveforms`, each (samples,).

        What is shorter is followed by zeros; of what is longer no more is computed than is returned.
        """
        banks = np.zeros((len(waveforms), self._frames, self._filters), np.float32)
        group: list[tuple[NDArray[np.float32], NDArray[Any]]] = []
        count = 0
        for bank, waveform in zip(banks, waveforms, strict=True):
            heard = waveform[: (self._frames - 1) * _HOP + _FRAME]
            if len(heard) < _FRAME:
                continue
            frames = np.lib.stride_tricks.sliding_window_view(heard, _FRAME)[::_HOP]
            group.append((bank, frames))
            count += len(frames)
            if count >= _FRAMES_AT_ONCE:
                self._fill(group)
                group, count = [], 0
        if group:
            self._fill(group)
        if self._normal is not None:
            mean, deviation = self._normal
            banks -= mean
            banks /= deviation * 2
        return banks

    def _fill(self, group: Sequence[tuple[NDArray[np.float32], NDArray[Any]]]) -> None:
        """Compute the banks of these frames."""
        framed = np.concatenate([frames for _, frames in group], dtype=np.float64)
        framed -= framed.mean(axis=1, keepdims=True)
        framed[:, 1:] -= _PREEMPHASIS * framed[:, :-1]
        framed[:, 0] *= 1 - _PREEMPHASIS
        framed *= self._window
        power = np.abs(np.fft.rfft(framed, _FFT).astype(np.complex64), dtype=np.float64)
        power *= power
        energies = np.empty((len(framed), self._filters))
        for filters, frequencies, weights in self._parts:
            energies[:, filters] = power[:, frequencies] @ weights
        np.maximum(_FLOOR, energies, out=energies)
        np.log(energies, out=energies)
        begin = 0
        for bank, frames in group:
            bank[: len(frames)] = energies[begin : begin + len(frames)]
            begin += len(frames)


def _parts(mel_filters: NDArray[Any]) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield neighbouring filters, the frequencies that they hear, and their weights of those."""
    for begin in range(0, mel_filters.shape[1], _FILTERS_AT_ONCE):
        filters = slice(begin, begin + _FILTERS_AT_ONCE)
        heard = np.flatnonzero(mel_filters[:, filters].sum(axis=1))
        frequencies = slice(heard[0], heard[-1] + 1) if len(heard) else slice(0, 0)
        yield filters, frequencies, np.ascontiguousarray(mel_filters[frequencies, filters])
