"""One answer under way: how its next token is picked, its tokens, its end, and its caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from engines.base import NO_HURRY, Emit, Urgency
from engines.log_context import RequestName, requests_at_hand

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


_LEAD_TOKENS = 8
"""How many last tokens of the prompt are decoded together with the answer, to begin with."""


@dataclass(eq=False, repr=False)
class TokenSequence:
    """A prompt and its growing answer, for any loop; not safe to share between threads."""

    prompt: list[int]
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    """Tokens that end the answer, and are not part of it."""
    budget: int
    """The most tokens of the answer, at least 1."""
    stop: Sequence[str]
    picker: TokenPicker
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Further inputs of the model, such as pixel_values; see micro_batches.py."""
    beams: Mapping[str, Any] = field(default_factory=dict)
    """The options of beam search; empty where tokens are picked one by one."""
    tokens: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "cancelled"] | None = None
    future: Future[dict[str, Any]] = field(default_factory=Future)
    """The answer, for the caller."""
    as_result: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    """Makes the task's result of the answer."""
    emit: Emit | None = None
    told: int = 0
    """How many characters were passed to `emit`."""
    since: float = 0.0
    """When its loop took it, by the loop's clock."""
    sort_key: tuple[Urgency, int] = (NO_HURRY, 0)
    """The smallest is next: the most urgent; among equals, the one that came first."""
    passed: int = 0
    """How many later ones joined before it, as there was room only for them."""
    shift: int = 0
    """How far its positions are ahead of its columns in a running batch, as images have fewer or more of them."""
    was_tried: bool = False
    """Whether it ran alone for a while after its batch had failed, and did not fail."""
    requests: Sequence[RequestName] = field(default_factory=requests_at_hand)
    """The requests in log lines of the thread that made it."""

    @property
    def seen(self) -> list[int]:
        return self.prompt + self.tokens

    def accept(self, token: int) -> bool:
        """Take the next token; return whether it is done. After that, further tokens are ignored."""
        if self.finish_reason is not None:
            return True
        if token in self.ends:
            self.finish_reason = "stop"
            return True
        self.tokens.append(token)
        if self.stop and self._stop_at(self._whole_text()) is not None:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.budget:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def give_up(self) -> None:
        """End it: its caller does not need the rest."""
        self.finish_reason = "cancelled"

    def start_again(self) -> None:
        """Drop the answer so far; the same tokens are sampled again."""
        self.tokens.clear()
        self.finish_reason = None
        self.picker.start_again()

    def text(self) -> str:
        """Return the answer without the stop string that ended it, and without an incomplete character at its end."""
        text = self._whole_text()
        cut = self._stop_at(text)
        if cut is not None:
            return text[:cut]
        return without_half_character(text) if self.finish_reason in ("length", "cancelled") else text

    def settled_text(self) -> str:
        """Return the part of the answer that no further token can change, and that may be streamed. Held back are an
        incomplete character, and a possible beginning of a stop string."""
        text = without_half_character(self.text())
        most = max((len(stop) - 1 for stop in self.stop), default=0)
        for count in range(min(most, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self.stop):
                return text[:-count]
        return text

    @cached_property
    def _lead(self) -> tuple[list[int], str]:
        """The end of the prompt to decode together with the answer, long enough to show text; and that text. Many
        tokenizers drop the space before a first token: the answer's must not be lost."""
        count = _LEAD_TOKENS
        while not (text := self._decode(self.prompt[-count:])) and count < len(self.prompt):
            count *= 2
        return self.prompt[-count:], text

    def _whole_text(self) -> str:
        """Return the answer with whatever stop string it has."""
        tokens, text = self._lead
        whole = self._decode(tokens + self.tokens)
        return whole[len(text) :] if whole.startswith(text) else self._decode(self.tokens)

    def _stop_at(self, text: str) -> int | None:
        return min((at for stop in self.stop if (at := text.find(stop)) >= 0), default=None)

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def without_half_character(text: str) -> str:
    """Return decoded `text` without bytes at its end that are not a whole character."""
    return text.rstrip("\ufffd")
