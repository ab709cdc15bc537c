"""Picks the next token of one row from its scores: greedy, or sampled with its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

BEAM_OPTIONS = ("num_beams", "early_stopping", "length_penalty")

_CHANGING_SCORES = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "sequence_bias",
    "suppress_tokens",
    "watermarking_config",
)
"""Settings of a generation config that forbid or prefer tokens, also in greedy answers."""


_LEAST_TEMPERATURE = 1e-6
"""Below it the likeliest token has probability 1 in float32 too."""


def changes_scores(config: GenerationConfig) -> bool:
    """Return whether the model's configuration changes the model's scores."""
    has_guidance = (getattr(config, "guidance_scale", None) or 1.0) != 1.0
    return has_guidance or any(getattr(config, name, None) for name in _CHANGING_SCORES)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings of one row; `top_k` 0 and `top_p` 1 are off, `seed` None is a new one each time."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    @classmethod
    def of_model(cls, config: GenerationConfig) -> Sampling:
        """Return the settings of the model's own generation config."""
        return cls(
            do_sample=bool(config.do_sample),
            temperature=config.temperature or 1.0,
            top_k=config.top_k or 0,
            top_p=config.top_p or 1.0,
            repetition_penalty=config.repetition_penalty or 1.0,
        )

    @classmethod
    def of_request(cls, options: Mapping[str, Any], defaults: Sampling) -> Sampling:
        """Return the settings of a request; options win over the model's `defaults`. Without `do_sample`, a
        temperature, top_p or top_k turns sampling on; a temperature of 0 is always greedy."""
        temperature = options.get("temperature", defaults.temperature)
        asks = any(name in options for name in ("temperature", "top_p", "top_k"))
        return cls(
            do_sample=options.get("do_sample", defaults.do_sample or asks) and temperature > 0,
            temperature=temperature or 1.0,
            top_k=options.get("top_k", defaults.top_k),
            top_p=options.get("top_p", defaults.top_p),
            repetition_penalty=options.get("repetition_penalty", defaults.repetition_penalty),
            seed=options.get("seed"),
        )

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is taken by the model's own scores."""
        return not self.do_sample and self.repetition_penalty == 1.0


class TokenPicker:
    """Picks the tokens of one row with its own random generator, so that other rows do not matter."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        self._seed = self._generator.seed() if sampling.seed is None else sampling.seed
        self.start_again()

    def start_again(self) -> None:
        """Restart the random generator, so that the same tokens are drawn again: a listener may have them already."""
        self._generator.manual_seed(self._seed)

    def pick(self, scores: torch.Tensor, seen: torch.Tensor) -> int:
        """Return the next token, given `scores` (vocabulary,) and the row's tokens so far, (length,) int64.

        Source: https://arxiv.org/abs/1909.05858 section 4.1 (repetition penalty);
            https://arxiv.org/abs/1904.09751 (nucleus sampling).
        """
        sampling = self.sampling
        if sampling.repetition_penalty != 1.0:
            penalty = sampling.repetition_penalty
            came = scores[seen]
            scores = scores.scatter(0, seen, torch.where(came < 0, came * penalty, came / penalty))
        if not sampling.do_sample:
            return int(scores.argmax())
        scores, tokens = scores.float(), torch.arange(scores.shape[0], device=scores.device)
        if sampling.top_k or sampling.top_p < 1.0:  # sorting takes longer than all the rest
            scores, tokens = scores.topk(min(sampling.top_k or len(tokens), len(tokens)))
        # Relative to the highest: else a temperature near zero makes infinite scores.
        chances = ((scores - scores.max()) / max(sampling.temperature, _LEAST_TEMPERATURE)).softmax(0)
        if sampling.top_p < 1.0:
            before = chances.cumsum(0) - chances
            chances = chances.where(before < sampling.top_p, 0.0)
            chances[0] = max(float(chances[0]), 1e-9)
        drawn = torch.multinomial(chances.cpu(), 1, generator=self._generator)
        return int(tokens[drawn.to(tokens.device)])
