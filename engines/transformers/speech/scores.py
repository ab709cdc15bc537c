"""What is heard of one pass of a Whisper model while it runs: how likely its tokens are, and whether it loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import LogitsProcessor, StoppingCriteria
from transformers.modeling_outputs import BaseModelOutput

from engines.transformers.speech.guards import is_loop

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration

_LOOK_EVERY = 16
"""Tokens between two looks for a loop."""

Means = tuple[float, float]
"""Mean log-probability of a row's tokens, timestamps and end included, and of those of its text alone."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How the tokens of one row are taken: the likeliest at temperature 0, else drawn by `seed`, None for any."""

    temperature: float = 0.0
    seed: int | None = None

    def generator(self) -> torch.Generator:
        """Return what this row alone draws from, so that it draws the same in any batch."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


class PassListener(LogitsProcessor):
    """Takes the scores of every step of a pass without beams, and adds up how likely the tokens were that it took.

    Where a row's temperature is not 0 it adds Gumbel noise to its scores: the largest is a draw then.
    Source: https://arxiv.org/abs/1411.0030 section 2 (the Gumbel-max trick).
    """

    def __init__(self, draws: Sequence[Draw], *, end: int, device: torch.device) -> None:
        """`end` is the token that ends a text; those below it are text."""
        self._end = end
        self._draws = [
            (row, draw.temperature, draw.generator())
            for row, draw in enumerate(draws)
            if draw.temperature > 0
        ]
        self._likely: torch.Tensor | None = None
        self._sums = torch.zeros((len(draws), 2), device=device)
        self._counts = torch.zeros((len(draws), 2), device=device)
        self.is_over = torch.zeros(len(draws), dtype=torch.bool, device=device)
        self.is_loop = torch.zeros(len(draws), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next tokens, (rows, vocabulary), to take the largest of."""
        self.take(input_ids[:, -1])
        self._likely = scores.float().log_softmax(-1)
        if not self._draws:
            return scores
        drawn = scores.float().clone()
        for row, temperature, generator in self._draws:
            noise = torch.empty(drawn.shape[1]).exponential_(generator=generator).log_()
            drawn[row] = drawn[row] / temperature - noise.to(drawn.device)
        return drawn

    def take(self, tokens: torch.Tensor) -> None:
        """Count the tokens that were taken by the latest scores, (rows,), in the rows that are not over."""
        if self._likely is None:
            return
        found = self._likely.gather(1, tokens[:, None])
        goes_on = ~self.is_over
        counts = torch.stack([goes_on, goes_on & (tokens < self._end)], dim=1)
        self._sums += torch.where(counts, found, 0.0)
        self._counts += counts
        self.is_over |= tokens == self._end

    def means(self) -> list[Means]:
        """Return the means of each row; those of a row without text are alike."""
        return [
            _means(*sums, *counts)
            for sums, counts in zip(self._sums.tolist(), self._counts.tolist(), strict=True)
        ]


class LoopStop(StoppingCriteria):
    """Ends the rows that repeat themselves for good: they would fill all the room there is."""

    def __init__(self, listener: PassListener, *, end: int) -> None:
        self._listener = listener
        self._end = end
        self._steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows are over, (rows,)."""
        found = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        self._steps += 1
        if self._steps % _LOOK_EVERY == 0:
            for row, tokens in enumerate(input_ids.tolist()):
                found[row] = is_loop([token for token in tokens if token < self._end])
            self._listener.is_over |= found
            self._listener.is_loop |= found
        return found


class NoSpeech:
    """Measures, while it is entered, how likely it is in each row of a pass that nobody speaks: by its first token."""

    def __init__(self, model: WhisperForConditionalGeneration, token: int, *, beams: int) -> None:
        self.probabilities: list[float] = []
        self._model = model
        self._token = token
        self._beams = beams

    def __enter__(self) -> NoSpeech:
        self._handle = self._model.register_forward_hook(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _hear(self, _model: Any, _inputs: Any, output: Any) -> None:
        if not self.probabilities:  # the pass begins with its whole prompt, so the start of it is there
            first = output.logits[:: self._beams, 0].float().softmax(-1)
            self.probabilities = first[:, self._token].tolist()


def means_by_one_more_pass(
    model: WhisperForConditionalGeneration,
    encoded: Any,
    sequences: Sequence[Sequence[int]],
    *,
    end: int,
    prompt: int,
) -> list[Means]:
    """Return the means of rows that beam search found; `sequences` begin with `prompt` tokens that it was given.

    Row by row, as the scores of all tokens of one row take up to 100 MB.
    """
    means = []
    for row, sequence in enumerate(sequences):
        tokens = list(sequence[prompt:])
        if end in tokens:
            tokens = tokens[: tokens.index(end) + 1]
        ids = torch.tensor([[*sequence[:prompt], *tokens]], device=model.device)
        states = encoder_output(encoded.last_hidden_state[row : row + 1])
        logits = model(encoder_outputs=states, decoder_input_ids=ids[:, :-1]).logits[0, prompt - 1 :]
        found = logits.float().log_softmax(-1).gather(1, ids[0, prompt:, None])[:, 0].tolist()
        text = [one for one, token in zip(found, tokens, strict=True) if token < end]
        means.append(_means(sum(found), sum(text), len(found), len(text)))
    return means


def encoder_output(states: torch.Tensor) -> BaseModelOutput:
    """Return encoded windows, (windows, frames, width), as models take them."""
    return BaseModelOutput(last_hidden_state=cast(Any, states))


def _means(all_sum: float, text_sum: float, count: float, text_count: float) -> Means:
    mean = all_sum / count if count else 0.0
    return mean, text_sum / text_count if text_count else mean
