"""Decides whether the text of a Whisper model was really said, from measures of one pass.

Source: https://arxiv.org/abs/2212.04356 section 4.5 (long-form transcription); names and defaults as in openai-whisper.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_LEAST_TAIL, _LONGEST_PERIOD = 96, 24
"""A text whose last 96 tokens repeat up to 24 of them is a loop: no speech takes so much of a window."""

_HALF = 0.5

_MOST_FALLBACKS = 10
"""How often a window is repeated at a higher temperature; a smaller increment ends below 1."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measures of one pass over a window. Log-probabilities are natural, and never NaN."""

    avg_logprob: float
    """Mean log-probability of all tokens, timestamps and the end included."""
    text_logprob: float
    """Mean log-probability of the tokens of the text; `avg_logprob` where there is no text."""
    no_speech_prob: float
    """Probability that the window holds no speech, 0 to 1."""
    compression_ratio: float
    """Bytes of the text over bytes of the text compressed by zlib; 0 where there is no text."""
    is_whole: bool = True
    """Whether the model ended the text itself, rather than the limit of tokens or a loop."""

    def measures(self) -> dict[str, float]:
        """Return the measures of a segment, by the names of Whisper's own segments."""
        return {
            "avg_logprob": round(self.avg_logprob, 4),
            "no_speech_prob": round(self.no_speech_prob, 4),
            "compression_ratio": round(self.compression_ratio, 3),
        }


@dataclass(frozen=True, slots=True)
class Guards:
    """The thresholds of a request, and the temperatures of its attempts."""

    temperature: float = 0.0
    no_speech_threshold: float = 0.6
    logprob_threshold: float = -1.0
    compression_ratio_threshold: float = 2.4
    temperature_increment_on_fallback: float = 0.2

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        return cls(**{name: options[name] for name in cls.__slots__ if name in options})

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try in order: from the first to 1, and not endlessly many."""
        first, step = self.temperature, self.temperature_increment_on_fallback
        more = int(min((1.0 - first) / step + 1e-9, _MOST_FALLBACKS)) if step > 0 and first < 1.0 else 0
        return tuple(round(first + index * step, 6) for index in range(more + 1))

    def is_repetitive(self, evidence: Evidence) -> bool:
        """Return whether the text repeats itself more than speech does. People do repeat themselves: a text that the
        model is sure of and ended itself, with speech surely present, was said."""
        is_said = (
            evidence.is_whole
            and evidence.avg_logprob > self.logprob_threshold * _HALF
            and evidence.no_speech_prob < self.no_speech_threshold * _HALF
        )
        return evidence.compression_ratio > self.compression_ratio_threshold and not is_said

    def is_doubtful(self, evidence: Evidence) -> bool:
        return self.is_repetitive(evidence) or evidence.avg_logprob < self.logprob_threshold

    def is_silence(self, evidence: Evidence) -> bool:
        """Return whether the window holds no speech, whatever its text. A text counts against `no_speech_prob` only
        where the model is surer of its words than half of `logprob_threshold`, and they do not repeat: invented texts
        such as "Thank you." are likelier than -1."""
        is_unsure = evidence.text_logprob < self.logprob_threshold * _HALF
        is_unlikely = is_unsure or self.is_doubtful(evidence)
        return is_unlikely and evidence.no_speech_prob > self.no_speech_threshold

    def is_silence_after_all(self, evidence: Evidence) -> bool:
        """Return whether the window holds no speech, judged by the best of all attempts. Where even that is doubtful,
        half of `no_speech_threshold` is enough; a threshold of 1 stays 1."""
        threshold = self.no_speech_threshold
        is_unlikely = self.is_doubtful(evidence)
        return is_unlikely and evidence.no_speech_prob > (threshold * _HALF if threshold < 1 else 1)

    def rank(self, evidence: Evidence) -> tuple[bool, float]:
        return not self.is_repetitive(evidence), evidence.avg_logprob


def compression_ratio(text: str) -> float:
    """Return how much shorter zlib makes `text`, as UTF-8; about 1 for a sentence, 0 for no text."""
    written = text.encode("utf-8", "replace")
    return len(written) / len(zlib.compress(written)) if written else 0.0


def is_loop(tokens: Sequence[int]) -> bool:
    """Return whether text tokens end in a repetition that a model will not leave."""
    tail = tokens[-_LEAST_TAIL:]
    if len(tail) < _LEAST_TAIL:
        return False
    return any(tail[period:] == tail[:-period] for period in range(1, _LONGEST_PERIOD + 1))
