"""One answer under way: its tokens, its end, and its caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from engines.base import NO_HURRY, Emit, Urgency
from engines.log_context import RequestName, requests_at_hand
from engines.transformers.generation.sampling import TokenPicker

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
    room_by: int | None = None
    """The step of its loop at which it has room at the latest; None where it was not computed."""
    on_begin: Callable[[], None] = lambda: None
    """Called when its loop begins with it."""
    shift: int = 0
    """How far its positions are ahead of its columns in a running batch, as images have fewer or more of them."""
    was_tried: bool = False
    """Whether it ran alone for a while after its batch had failed, and did not fail."""
    requests: Sequence[RequestName] = field(default_factory=requests_at_hand)
    """The requests in log lines of the thread that made it."""

    @property
    def priority(self) -> float:
        """Minus the priority of its request."""
        return self.sort_key[0][0]

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
