"""Synthetic sounds of known kinds, and stretches of recorded speech, at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]

RATE = 16_000
KINDS = ("tone", "chirp_up", "chirp_down", "noise", "clicks", "speech")
TRAINING_SEED, HELD_OUT_SEED = 0, 1_000_003

_LIBRIVOX = Path(__file__).parents[2] / "data" / "librivox"
_TRAINING_SPEECH = _LIBRIVOX / "sense-and-sensibility-0890.flac"
_HELD_OUT_SPEECH = _LIBRIVOX / "sense-and-sensibility-0930.flac"


class Sounds:
    """Makes sounds with everything about them drawn from one seed; with `held_out`, speech is of another clip."""

    def __init__(self, seed: int, *, held_out: bool) -> None:
        self._rng = np.random.default_rng(seed)
        clip = _HELD_OUT_SPEECH if held_out else _TRAINING_SPEECH
        self._speech: Samples = soundfile.read(clip, dtype="float32")[0]

    def make(self, kind: str, *, seconds: float | None = None) -> Samples:
        """Return a sound of `kind` within -1..1, (samples,) float32, by default 0.7 to 2 s long."""
        count = int((seconds or self._rng.uniform(0.7, 2.0)) * RATE)
        pure = self._pure(kind, count)
        loudness = self._rng.uniform(0.2, 0.9) / max(float(np.abs(pure).max()), 1e-3)
        hiss = self._rng.standard_normal(count) * self._rng.uniform(0.0005, 0.01)
        sound: Samples = np.clip(pure * loudness + hiss, -1, 1).astype(np.float32)
        return sound

    def _pure(self, kind: str, count: int) -> NDArray[np.float64]:
        match kind:
            case "tone":
                return self._sine(np.full(count, self._pitch()))
            case "chirp_up" | "chirp_down":
                low = self._pitch()
                rising = np.geomspace(low, low * self._rng.uniform(2.5, 5), count)
                return self._sine(rising if kind == "chirp_up" else rising[::-1])
            case "noise":
                return self._rng.standard_normal(count)
            case "clicks":
                return self._clicks(count)
            case "speech":
                return self._spoken(count)
            case _:
                raise ValueError(f"{kind!r} is none of {KINDS}")

    def _pitch(self) -> float:
        return float(np.exp(self._rng.uniform(np.log(150), np.log(1500))))

    def _sine(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        phase = self._rng.uniform(0, 2 * np.pi)
        wave: NDArray[np.float64] = np.sin(phase + 2 * np.pi * np.cumsum(frequencies) / RATE)
        return wave

    def _clicks(self, count: int) -> NDArray[np.float64]:
        """Return short, damped knocks at equal distances."""
        period = int(self._rng.integers(1000, 4000))
        beats = np.zeros(count)
        beats[int(self._rng.integers(0, period)) :: period] = 1
        time = np.arange(120)
        knock = np.exp(-time / self._rng.uniform(8, 20)) * np.cos(time * self._rng.uniform(0.3, 1.5))
        return np.convolve(beats, knock)[:count]

    def _spoken(self, count: int) -> NDArray[np.float64]:
        """Return a stretch of the clip, spoken faster or slower, higher or lower."""
        speed = self._rng.uniform(0.8, 1.25)
        needed = min(int(count * speed) + 64, len(self._speech))
        start = int(self._rng.integers(0, len(self._speech) - needed + 1))
        spoken = soxr.resample(self._speech[start : start + needed], RATE * speed, RATE).astype(np.float64)
        return np.resize(spoken, count)
