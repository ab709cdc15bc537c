"""Recordings on their way through a Whisper model, and their windows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.transformers.generation.sampling import Sampling
from engines.transformers.speech.guards import Evidence
from engines.transformers.speech.options import SpeechSettings
from engines.transformers.speech.segments import Segment

_HOP_S = 0.02
"""Resolution of the search for a pause."""

_PAUSE_S = 0.3
"""Length of the pause to look for."""

_SEARCH_S = 8.0
"""How far before the latest possible border a pause is looked for."""


def split_at_pauses(samples: NDArray[np.float32], *, rate: int, window_s: float) -> list[tuple[int, int]]:
    """Return (start, end) sample indices of windows of at most `window_s` that cover `samples` without overlap. Each
    border is in the quietest place before its latest possible position."""
    longest = int(window_s * rate)
    borders = [0]
    while len(samples) - borders[-1] > longest:
        latest = borders[-1] + longest
        earliest = latest - int(min(_SEARCH_S, window_s / 2) * rate)
        borders.append(earliest + _quietest(samples[earliest:latest], rate))
    return list(zip(borders, [*borders[1:], len(samples)], strict=True))


def _quietest(samples: NDArray[np.float32], rate: int) -> int:
    """Return the middle of the quietest pause-long stretch; of equally quiet ones, the last."""
    hop = int(_HOP_S * rate)
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    energy = np.convolve((frames**2).mean(axis=1), np.ones(round(_PAUSE_S / _HOP_S)), mode="valid")
    last_quietest = len(energy) - 1 - int(np.argmin(energy[::-1]))
    return int((last_quietest + _PAUSE_S / _HOP_S / 2) * hop)


@dataclass(frozen=True, slots=True)
class Heard:
    """The result of one pass over one window: the model's segments, all its tokens, and its certainty."""

    parts: Sequence[dict[str, Any]]
    """Segments with start, end (s), tokens and, where asked for, token_timestamps."""
    sequence: list[int]
    """All tokens, prompt and end included."""
    text: str
    evidence: Evidence


@dataclass(slots=True, eq=False)
class Recording:
    samples: NDArray[np.float32]
    language: str | None
    settings: SpeechSettings
    is_language_given: bool = True
    windows: int = 0
    silent_windows: int = 0
    is_cut: bool = False
    """Whether the text of a window was cut at the limit of its tokens, or as it repeated itself for ever."""
    left: int = 0
    """Windows that are not finished."""
    segments: list[Segment] = field(default_factory=list)

    @property
    def is_long(self) -> bool:
        """Whether it has several windows and a known language: the windows of short recordings go first."""
        return self.windows > 1 and self.language is not None

    @property
    def is_language_open(self) -> bool:
        """Whether the language may have come from a window that holds no speech."""
        return not self.is_language_given and not self.segments


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of a recording for one pass of the model, beginning at sample `start`."""

    recording: Recording
    start: int
    end: int
    passes: int = 1
    attempt: int = 0
    """How often it was tried from this start, each time at a higher temperature."""
    best: Heard | None = None
    """The best attempt so far."""
    encoded: tuple[torch.Tensor, torch.Tensor] | None = None
    """The encoder's output, (1, frames, width), and its mask, kept for another attempt."""

    @property
    def samples(self) -> NDArray[np.float32]:
        return self.recording.samples[self.start : self.end]

    @property
    def sort_key(self) -> tuple[bool, bool, bool, int, int]:
        """The smallest is next: windows that are not doubtful; those encoded already; those of short recordings; then
        the longest. A pass takes as long as its longest window. The beginning of a recording whose language is not
        known comes first."""
        _, is_doubtful, is_new, is_of_many = self.kind
        first = self.start if self.recording.language is None else 0
        return is_doubtful, is_new, is_of_many, first, self.start - self.end

    @property
    def kind(self) -> tuple[SpeechSettings, bool, bool, bool]:
        """Must be equal within a pass."""
        one = self.recording
        return one.settings, self.attempt > 0, self.encoded is None, one.is_long

    def sampling(self) -> Sampling:
        """Return how its tokens are picked. The seed of a fallback comes from the sound, so repeats are equal."""
        temperature = self.recording.settings.guards.temperatures[self.attempt]
        seed = self.recording.settings.seed
        if seed is None and self.attempt > 0:
            seed = zlib.crc32(self.samples.tobytes())
        if seed is not None:
            seed = hash((seed, self.start, self.attempt)) % 2**63
        return Sampling(do_sample=temperature > 0, temperature=temperature, seed=seed)

    def better(self, heard: Heard) -> Heard:
        guards = self.recording.settings.guards
        if self.best is None or guards.rank(heard.evidence) >= guards.rank(self.best.evidence):
            return heard
        return self.best


def next_pass(waiting: Sequence[Window], *, most: int) -> tuple[list[Window], list[Window]]:
    """Return which of `waiting`, up to a number, share the next pass, and the others. If the language of a recording
    came from a doubtful window, its other windows wait for that one."""
    told = {id(one.recording) for one in waiting if one.attempt and one.recording.is_language_open}
    ready = sorted(
        (one for one in waiting if one.attempt or id(one.recording) not in told), key=lambda one: one.sort_key
    )
    batch = [one for one in ready if one.kind == ready[0].kind][:most]
    return batch, [one for one in waiting if one not in batch]
