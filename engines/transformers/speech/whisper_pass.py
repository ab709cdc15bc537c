"""One pass of a Whisper model over encoded windows: what it writes of each, and how sure it is of that."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from engines.transformers.generation.token_sequence import without_half_character
from engines.transformers.speech.guards import Evidence, compression_ratio
from engines.transformers.speech.options import SpeechSettings
from engines.transformers.speech.scores import (
    Draw,
    LoopStop,
    NoSpeech,
    PassListener,
    means_by_one_more_pass,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

_PROMPT_TOKENS = 4
"""Start, language, task and "no timestamps": what a pass begins with."""

_BEAM_OPTIONS = ("num_beams", "early_stopping", "length_penalty")


class SpeechTokens:
    """The tokens of a Whisper model: text is below `end`, then come special ones, last the timestamps."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        no_timestamps = vocabulary["<|notimestamps|>"]
        self.end: int = vocabulary["<|endoftext|>"]
        self.first_timestamp: int = no_timestamps + 1
        named = vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
        self.no_speech: int = no_timestamps - 1 if named is None else named

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens of the text alone."""
        return [token for token in tokens if token < self.end]

    def prompt_of(self, sequence: Sequence[int]) -> int:
        """Return how many tokens `sequence` begins with that the model was given."""
        given = itertools.takewhile(lambda token: self.end < token < self.first_timestamp, sequence)
        return len(list(given))

    def decode(self, tokens: list[int]) -> str:
        """Return the text, with U+FFFD for what is not a whole character."""
        text = self._tokenizer.decode(tokens)
        return text if isinstance(text, str) else "".join(text)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, which ends in no half of a character."""
        return without_half_character(self.decode(self.text_tokens(tokens)))


@dataclass(frozen=True, slots=True)
class Heard:
    """What one pass wrote of one window: the model's own segments, all its tokens, and how sure it is."""

    parts: Sequence[dict[str, Any]]
    """Segments with start, end (s), tokens and, where asked for, token_timestamps."""
    sequence: list[int]
    """All tokens, prompt and end included."""
    text: str
    evidence: Evidence


def hear(
    model: WhisperForConditionalGeneration,
    tokens: SpeechTokens,
    settings: SpeechSettings,
    *,
    encoded: Any,
    attention_mask: torch.Tensor,
    max_new_tokens: int,
    languages: Sequence[str | None],
    draws: Sequence[Draw],
) -> list[Heard]:
    """Return what one pass writes of each encoded window; with beams only where nothing is drawn."""
    room = model.config.max_target_positions - _PROMPT_TOKENS
    asked: dict[str, Any] = dict(settings.search)
    if any(draw.temperature > 0 for draw in draws):
        asked = {name: value for name, value in asked.items() if name not in _BEAM_OPTIONS}
    if settings.task is not None:
        asked |= {"task": settings.task, "language": list(languages)}
    beams: int = asked.get("num_beams", 1)
    listener = PassListener(draws, end=tokens.end, device=model.device)
    if beams == 1:
        asked |= {"logits_processor": [listener], "stopping_criteria": [LoopStop(listener, end=tokens.end)]}
    attention = model.config._attn_implementation
    with NoSpeech(model, tokens.no_speech, beams=beams) as no_speech:
        try:
            found: Any = model.generate(
                encoder_outputs=encoded,
                attention_mask=attention_mask,
                return_timestamps=bool(settings.timestamps),
                return_token_timestamps=settings.timestamps == "word",
                return_segments=True,
                force_unique_generate_call=True,
                temperature=0.0,
                max_new_tokens=min(settings.max_new_tokens or max_new_tokens, room),
                **asked,
            )
        finally:
            # Word timestamps switch the model to the slow kind of attention for good.
            model.config._attn_implementation = attention
    of_windows: list[list[dict[str, Any]]] = found["segments"]
    sequences = [_sequence(parts[-1]) for parts in of_windows]
    if beams == 1:
        listener.take(torch.tensor([sequence[-1] for sequence in sequences], device=model.device))
        means = listener.means()
    else:
        prompt = tokens.prompt_of(sequences[0])
        means = means_by_one_more_pass(model, encoded, sequences, end=tokens.end, prompt=prompt)
    heard = []
    loops: list[bool] = listener.is_loop.tolist()
    for row, (parts, sequence) in enumerate(zip(of_windows, sequences, strict=True)):
        text = tokens.text(sequence).strip()
        is_whole = tokens.end in sequence[tokens.prompt_of(sequence) :] and not loops[row]
        ratio = compression_ratio(text)
        evidence = Evidence(*means[row], no_speech.probabilities[row], ratio, is_whole)
        heard.append(Heard(parts, sequence, text, evidence))
    return heard


def _sequence(part: dict[str, Any]) -> list[int]:
    """Return all tokens of the pass that `part` comes from, prompt and end included."""
    result = part["result"]
    tokens: list[int] = (result["sequences"] if isinstance(result, dict) else result).tolist()
    return tokens
