"""Sounds in which nobody speaks, at 16 kHz within -1..1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 16_000

Samples = NDArray[np.float32]


def sounds_without_speech() -> dict[str, Samples]:
    """Return silence, noise, hum, tones and clicks by name, the same every time."""
    time = np.arange(30 * RATE) / RATE
    white = np.random.default_rng(1).standard_normal(len(time))
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(1, np.arange(len(time) // 2 + 1)))
    pink = np.fft.irfft(spectrum, len(time))
    pink /= np.abs(pink).max()
    sounds = {
        "digital silence": np.zeros(len(time)),
        "white noise at -66 dB": 5e-4 * white,
        "white noise at -40 dB": 1e-2 * white,
        "5 s of white noise at -26 dB": 5e-2 * white[: 5 * RATE],
        "pink noise": 0.5 * pink,
        "5 s of pink noise": 0.3 * pink[: 5 * RATE],
        "hum of 50 Hz at -40 dB": 1e-2 * np.sin(2 * np.pi * 50 * time),
        "tone of 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * time[: 10 * RATE]),
        "a click": 0.5 * (np.arange(5 * RATE) == 40_000),
        "clicks": 0.5 * (np.arange(10 * RATE) % 8_000 == 0),
    }
    return {name: samples.astype(np.float32) for name, samples in sounds.items()}
