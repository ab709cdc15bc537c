"""The recordings under tests/data, and the same speech in other formats, rates and channel counts."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

_LIBRIVOX = Path(__file__).parent / "data" / "librivox"


@dataclass(frozen=True, slots=True)
class Recording:
    """A spoken sentence: mono, 16 kHz, FLAC."""

    path: Path
    transcript: str
    """Lower case, words separated by single spaces, no punctuation."""


def librivox_recordings() -> tuple[Recording, ...]:
    """Return the committed recordings, the shortest first."""
    paths = sorted(_LIBRIVOX.glob("*.flac"), key=lambda path: path.stat().st_size)
    return tuple(Recording(path, path.with_suffix(".txt").read_text().strip()) for path in paths)


def normalized(text: str) -> str:
    """Return `text` as transcripts are written: case, punctuation and hyphens taken away."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def encoded(recording: Recording, file_format: str, *, rate: int = 16_000, channels: int = 1) -> bytes:
    """Return the recording as another file: `file_format` is WAV, FLAC, OGG or MP3, `rate` in Hz.

    With two channels the speech is on the left and, at half its loudness, on the right.
    """
    samples, original_rate = soundfile.read(recording.path, dtype="float32")
    if rate != original_rate:
        samples = soxr.resample(samples, original_rate, rate)
    if channels == 2:
        samples = np.stack([samples, samples * 0.5], axis=1)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=file_format)
    return file.getvalue()
