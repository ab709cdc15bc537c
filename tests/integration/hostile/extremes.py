"""The extremes of every option, and the combinations that take the most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from handlers.options.options import options_of
from handlers.options.spec import MOST, OptionSpec
from handlers.settings import LimitSettings, MediaSettings

_BOUNDS = {**LimitSettings().bounds, "media.max_frames": MediaSettings().max_frames}
_HUGE = 10**30
_MOST = _BOUNDS["limits.max_beam_tokens"]

COMBINATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "text-generation": (
        {"num_beams": _BOUNDS["limits.max_beams"], "max_new_tokens": _BOUNDS["limits.max_tokens"]},
        {"num_beams": 16, "max_new_tokens": _MOST // 16, "early_stopping": "never", "length_penalty": 10},
        {"do_sample": True, "temperature": 2, "top_k": 10**6, "top_p": 1, "max_new_tokens": 1024, "seed": 1},
        {"do_sample": True, "temperature": 5e-324, "top_p": 0, "repetition_penalty": 0.1},
        {"stop": ["a" * 1000] * 16, "max_new_tokens": 512, "repetition_penalty": 10},
    ),
    "asr": (
        {
            "no_speech_threshold": 0,
            "logprob_threshold": 0,
            "compression_ratio_threshold": 1,
            "temperature_increment_on_fallback": 5e-324,
        },
        {
            "no_speech_threshold": 1,
            "logprob_threshold": 0,
            "compression_ratio_threshold": 1,
            "temperature_increment_on_fallback": 0.001,
            "num_beams": 16,
            "max_new_tokens": 448,
            "timestamps": "word",
        },
    ),
    "video-analysis": (
        {"every_s": 0.001, "top_k": 10**6},
        {"num_frames": _BOUNDS["media.max_frames"], "every_s": 0.001},
    ),
}
"""By task; for others their options alone are enough."""


def extremes_of(spec: OptionSpec) -> list[Any]:
    """Return values at, and just beyond, both ends of what an option takes, and some of no kind that it takes."""
    match spec.kind:
        case "integer" | "number":
            low, high = spec.minimum or 0, spec.maximum
            most = _BOUNDS.get(spec.bound, high if high is not None else MOST)
            tiny = [5e-324] if spec.kind == "number" else []
            return [low, most, low - 1, most + 1, _HUGE, -_HUGE, 1e308, *tiny, "1", True]
        case "boolean":
            return [True, False, 1, "true"]
        case "choice":
            return [*spec.choices, "neither", _HUGE]
        case "strings":
            return ["a", ["a"] * 16, ["a" * 1000] * 16, ["a"] * 17, "a" * 1_000_000, [[]], ""]
        case _:
            return ["a", "en", "a" * 100, "a" * 1_000_000, "\0", _HUGE]


def extremes(task: str, engine: str) -> Iterator[dict[str, Any]]:
    """Yield the options of requests: each option at its extremes, then the combinations."""
    for name, spec in options_of(task).items():
        if spec.applies_to(engine):
            for value in extremes_of(spec):
                yield {name: value}
    yield from COMBINATIONS.get(task, ())
