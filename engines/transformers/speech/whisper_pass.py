"""One pass of a Whisper model over encoded windows: the text of each, and measures of its certainty."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from engines.transformers.generation.sampling import BEAM_OPTIONS, Sampling, TokenPicker
from engines.transformers.generation.token_sequence import without_half_character
from engines.transformers.speech.guards import Evidence, compression_ratio, is_loop
from engines.transformers.speech.recordings import Heard, Window

_PROMPT_TOKENS = 4
"""Tokens at the beginning of a pass: start, language, task and "no timestamps"."""

_LOOK_EVERY = 16
"""Tokens between two checks for a loop."""

Means = tuple[float, float]
"""Mean log-probability of a row's tokens, timestamps and end included, and of those of its text alone."""


class SpeechTokens:
    """The tokens of a Whisper model: text below `end`, then special tokens, then timestamps."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        no_timestamps = vocabulary["<|notimestamps|>"]
        self.end: int = vocabulary["<|endoftext|>"]
        self.first_timestamp: int = no_timestamps + 1
        named = vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
        self.no_speech: int = no_timestamps - 1 if named is None else named

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token < self.end]

    def prompt_of(self, sequence: Sequence[int]) -> int:
        """Return how many tokens at the beginning of `sequence` are its prompt."""
        given = itertools.takewhile(lambda token: self.end < token < self.first_timestamp, sequence)
        return len(list(given))

    def decode(self, tokens: list[int]) -> str:
        """Return the text, with U+FFFD for incomplete characters."""
        return str(self._tokenizer.decode(tokens))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens` without an incomplete character at its end."""
        return without_half_character(self.decode(self.text_tokens(tokens)))


def hear(
    model: WhisperForConditionalGeneration,
    tokens: SpeechTokens,
    windows: Sequence[Window],
    states: torch.Tensor,
    mask: torch.Tensor,
    *,
    max_new_tokens: int,
) -> list[Heard]:
    """Return the result of one pass over windows of one kind, given the encoder's output, (windows, frames, width), and
    its mask; beams are used only where nothing is sampled."""
    settings = windows[0].recording.settings
    samplings = [window.sampling() for window in windows]
    room = model.config.max_target_positions - _PROMPT_TOKENS
    asked: dict[str, Any] = dict(settings.search)
    if any(one.do_sample for one in samplings):
        asked = {name: value for name, value in asked.items() if name not in BEAM_OPTIONS}
    if settings.task is not None:
        asked |= {"task": settings.task, "language": [window.recording.language for window in windows]}
    beams: int = asked.get("num_beams", 1)
    listener = PassListener(samplings, end=tokens.end, device=model.device)
    if beams == 1:
        asked |= {"logits_processor": [listener], "stopping_criteria": [listener.stop_loops]}
    attention = model.config._attn_implementation
    with no_speech(model, tokens.no_speech, beams=beams) as silent:
        try:
            found: Any = model.generate(
                encoder_outputs=encoder_output(states),
                attention_mask=mask,
                return_timestamps=bool(settings.timestamps),
                return_token_timestamps=settings.timestamps == "word",
                return_segments=True,
                force_unique_generate_call=True,
                temperature=0.0,
                max_new_tokens=min(settings.max_new_tokens or max_new_tokens, room),
                **asked,
            )
        finally:
            # Word timestamps switch the model permanently to slow attention.
            model.config._attn_implementation = attention
    of_windows: list[list[dict[str, Any]]] = found["segments"]
    results = [parts[-1]["result"] for parts in of_windows]
    sequences: list[list[int]] = [(one["sequences"] if isinstance(one, dict) else one).tolist() for one in results]
    if beams == 1:
        listener.take(torch.tensor([sequence[-1] for sequence in sequences], device=model.device))
        means = listener.means()
    else:
        prompt = tokens.prompt_of(sequences[0])
        means = means_by_one_more_pass(model, states, sequences, end=tokens.end, prompt=prompt)
    heard = []
    rows = zip(of_windows, sequences, means, silent, listener.is_loop.tolist(), strict=True)
    for parts, sequence, mean, silence, loops in rows:
        text = tokens.text(sequence).strip()
        is_whole = tokens.end in sequence[tokens.prompt_of(sequence) :] and not loops
        evidence = Evidence(*mean, silence, compression_ratio(text), is_whole)
        heard.append(Heard(parts, sequence, text, evidence))
    return heard


class PassListener(LogitsProcessor):
    """Takes the scores of every step of a pass without beams, and adds up how likely the tokens were that it took.
    Rows that are sampled pick their tokens here."""

    def __init__(self, samplings: Sequence[Sampling], *, end: int, device: torch.device) -> None:
        """`end` is the token that ends a text; those below it are text."""
        self._end = end
        self._pickers = [(row, TokenPicker(one)) for row, one in enumerate(samplings) if one.do_sample]
        self._steps = 0
        self._likely: torch.Tensor | None = None
        self._sums = torch.zeros((len(samplings), 2), device=device)
        self._counts = torch.zeros((len(samplings), 2), device=device)
        self.is_over = torch.zeros(len(samplings), dtype=torch.bool, device=device)
        self.is_loop = torch.zeros(len(samplings), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next tokens, (rows, vocabulary), to take the largest of."""
        self.take(input_ids[:, -1])
        self._likely = scores.float().log_softmax(-1)
        for row, picker in self._pickers:
            token = picker.pick(scores[row], input_ids[row])
            scores[row] = -torch.inf
            scores[row, token] = 0.0
        return scores

    def take(self, tokens: torch.Tensor) -> None:
        """Count the tokens that were taken by the latest scores, (rows,), in unfinished rows."""
        if self._likely is None:
            return
        found = self._likely.gather(1, tokens[:, None])
        goes_on = ~self.is_over
        counts = torch.stack([goes_on, goes_on & (tokens < self._end)], dim=1)
        self._sums += torch.where(counts, found, 0.0)
        self._counts += counts
        self.is_over |= tokens == self._end

    def stop_loops(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows, (rows,), repeat themselves for ever: they would use all tokens they may."""
        found = torch.zeros_like(self.is_loop)
        self._steps += 1
        if self._steps % _LOOK_EVERY == 0:
            for row, tokens in enumerate(input_ids.tolist()):
                found[row] = is_loop([token for token in tokens if token < self._end])
            self.is_over |= found
            self.is_loop |= found
        return found

    def means(self) -> list[Means]:
        """Return the means of each row; both are equal for a row without text."""
        return [_means(*sums, *counts) for sums, counts in zip(self._sums.tolist(), self._counts.tolist(), strict=True)]


@contextmanager
def no_speech(model: WhisperForConditionalGeneration, token: int, *, beams: int) -> Iterator[list[float]]:
    """Measure during the block the probability of no speech in each row of a pass, by its first token."""
    probabilities: list[float] = []

    def hear(_model: Any, _inputs: Any, output: Any) -> None:
        if not probabilities:  # the pass begins with its whole prompt, so its start token is included
            first = output.logits[::beams, 0].float().softmax(-1)
            probabilities.extend(first[:, token].tolist())

    with model.register_forward_hook(hear):
        yield probabilities


def means_by_one_more_pass(
    model: WhisperForConditionalGeneration,
    states: torch.Tensor,
    sequences: Sequence[Sequence[int]],
    *,
    end: int,
    prompt: int,
) -> list[Means]:
    """Return the means of rows that beam search found; each of `sequences` begins with `prompt` prompt tokens. Row by
    row, as the scores of all tokens of one row take up to 100 MB."""
    means = []
    for row, sequence in enumerate(sequences):
        tokens = list(sequence[prompt:])
        if end in tokens:
            tokens = tokens[: tokens.index(end) + 1]
        ids = torch.tensor([[*sequence[:prompt], *tokens]], device=model.device)
        encoded = encoder_output(states[row : row + 1])
        logits = model(encoder_outputs=encoded, decoder_input_ids=ids[:, :-1]).logits[0, prompt - 1 :]
        found = logits.float().log_softmax(-1).gather(1, ids[0, prompt:, None])[:, 0].tolist()
        text = [one for one, token in zip(found, tokens, strict=True) if token < end]
        means.append(_means(sum(found), sum(text), len(found), len(text)))
    return means


def encoder_output(states: torch.Tensor) -> BaseModelOutput:
    """Return encoded windows, (windows, frames, width), in the form that models take."""
    return BaseModelOutput(last_hidden_state=cast(Any, states))


def _means(all_sum: float, text_sum: float, count: float, text_count: float) -> Means:
    mean = all_sum / count if count else 0.0
    return mean, text_sum / text_count if text_count else mean
