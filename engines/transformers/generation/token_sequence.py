"""One answer in the making: the tokens so far, when it is done, and who waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from engines.base import NO_HURRY, Emit, Urgency
from engines.log_context import requests_at_hand
from engines.transformers.generation.sampling import TokenPicker

_LEAD_TOKENS = 8
"""Tokens of the prompt to begin with, where the answer is decoded along with its end."""


class TokenSequence:
    """A prompt and its growing answer, whichever loop makes the tokens; not safe to share between threads.

    `budget` is the most tokens it may grow, at least 1. The token that ends it is not part of the answer.
    `extras` are what the model is given along with the prompt, such as pixel_values; see batch_generation.py.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        budget: int,
        stop: Sequence[str],
        picker: TokenPicker,
        extras: Mapping[str, torch.Tensor] | None = None,
        beams: Mapping[str, Any] | None = None,
    ) -> None:
        """`beams` are the options of beam search, none where its tokens are picked one by one."""
        self.prompt = list(prompt)
        self.extras = dict(extras or {})
        self.beams = dict(beams or {})
        self.tokens: list[int] = []
        self.budget = budget
        self.picker = picker
        self.finish_reason: Literal["stop", "length", "cancelled"] | None = None
        self._tokenizer = tokenizer
        self._ends = ends
        self._stop = tuple(stop)
        self.future: Future[dict[str, Any]] = Future()
        """The answer, for who asked for it."""
        self.emit: Emit | None = None
        self.told = 0
        """Characters of the answer that `emit` was called with."""
        self.since = 0.0
        """When its loop took it, by the loop's clock."""
        self.sort_key: tuple[Urgency, int] = (NO_HURRY, 0)
        """The smallest is next: the most urgent, and among equals the first that came."""
        self.passed = 0
        """How many that came later joined before it, as there was room for them only."""
        self.was_tried = False
        """Whether it ran alone for a while after a batch with it had failed, and was not at fault."""
        self.requests = requests_at_hand()
        """What log lines call it: what the thread that made it had at hand."""

    @property
    def seen(self) -> list[int]:
        return self.prompt + self.tokens

    def accept(self, token: int) -> bool:
        """Take the next token; return whether it is done. After that, further tokens are ignored."""
        if self.finish_reason is not None:
            return True
        if token in self._ends:
            self.finish_reason = "stop"
            return True
        self.tokens.append(token)
        if self._stop and self._stop_at(self._whole_text()) is not None:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.budget:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def give_up(self) -> None:
        """End it where it is: nobody waits for the rest."""
        self.finish_reason = "cancelled"

    def start_again(self) -> None:
        """Forget the answer so far; what was drawn is drawn the same again."""
        self.tokens.clear()
        self.finish_reason = None
        self.picker.start_again()

    def text(self) -> str:
        """Return the answer, without the stop string that ended it, or the half of a character that it was cut in."""
        text = self._whole_text()
        cut = self._stop_at(text)
        if cut is not None:
            return text[:cut]
        return without_half_character(text) if self.finish_reason in ("length", "cancelled") else text

    def settled_text(self) -> str:
        """Return the part of the answer that no further token can change: what may be shown already. Held back: half a
        character, and what may turn out to be the beginning of a stop string."""
        text = without_half_character(self.text())
        most = max((len(stop) - 1 for stop in self._stop), default=0)
        for count in range(min(most, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stop):
                return text[:-count]
        return text

    @cached_property
    def _lead(self) -> tuple[list[int], str]:
        """The end of the prompt that the answer is decoded along with, long enough to show text; and that text. Many
        tokenizers drop the space before a first token: it must not be the answer's."""
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
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)


def without_half_character(text: str) -> str:
    """Return decoded `text` without the bytes at its end that are not a whole character: its tokens were cut there."""
    return text.rstrip("\ufffd")
