"""The running batch: its rows grow by one token a step; rows join after a prefill and leave when done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from engines.transformers.generation.rolling.cache import RollingCache
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.token_sequence import TokenSequence


@dataclass(frozen=True, slots=True)
class Growth:
    """The cache columns of a row: `columns` now, and one more in each of at most `steps` steps."""

    columns: int
    steps: int

    @classmethod
    def of(cls, sequence: TokenSequence, steps_before: int = 0) -> Growth:
        """Return the growth of a row that joins after `steps_before` steps; 0 where it has joined."""
        return cls(len(sequence.seen), steps_before + sequence.budget - len(sequence.tokens))


def most_tokens(rows: Iterable[Growth]) -> int:
    """Return the most tokens that the cache block will need, if no other row joins. Every row of the block is as wide
    as the longest. So a short answer beside a long one costs much only while it lasts, and the block is largest just
    before one of the rows leaves. Rows that leave early may make it smaller."""
    most = widest = 0
    for count, row in enumerate(sorted(rows, key=lambda row: row.steps, reverse=True), start=1):
        widest = max(widest, row.columns)
        most = max(most, count * (widest + row.steps))
    return most


class RollingBatch:
    """The running rows and their cache. Not thread-safe; one loop drives it under `torch.inference_mode`."""

    def __init__(self, model: PreTrainedModel, most_tokens: int) -> None:
        """`most_tokens` bounds the cache, including that of a prefill."""
        self.model = model
        self.sequences: list[TokenSequence] = []
        self.cache = RollingCache(len(DynamicCache(config=model.config).layers), most_tokens)

    def expect(self, prefill: Prefill | None) -> None:
        self.cache.make_way(prefill.width * len(prefill.sequences) if prefill else 0)

    def join(self, prefill: Prefill, scores: torch.Tensor) -> None:
        """Add the rows of a finished prefill with their first tokens; rows that are done by it stay out."""
        self.cache.join(prefill.cache, prefill.lengths)
        self.sequences += prefill.sequences
        self._accept(scores, first=len(self.sequences) - len(prefill.sequences))

    def step(self) -> None:
        """Grow every row by one token; rows that are done leave."""
        device = self.model.device
        self.cache.reserve()
        rows = zip(self.cache.lengths(), self.sequences, strict=True)
        positions = [length + one.shift for length, one in rows]
        output: Any = self.model(
            input_ids=torch.tensor([[one.tokens[-1]] for one in self.sequences], device=device),
            attention_mask=self.cache.mask(device),
            position_ids=torch.tensor(positions, device=device)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache.advance()
        self._accept(output.logits[:, -1], first=0)

    def leave(self, sequence: TokenSequence) -> None:
        self._leave(self.sequences.index(sequence))

    def clear(self) -> None:
        self.sequences.clear()
        self.cache.clear()

    def _accept(self, scores: torch.Tensor, *, first: int) -> None:
        """Give each row from `first` on its next token. Each row takes its token before the next one picks: if a pick
        fails, no row has sampled a token that it does not have."""
        joined = self.sequences[first:]
        likeliest = scores.argmax(-1).tolist()
        # From last to first: the row that moves into a leaving row's place already has its token.
        for index in reversed(range(len(joined))):
            one, token = joined[index], likeliest[index]
            if not one.picker.sampling.is_plain:
                token = one.picker.pick(scores[index], torch.tensor(one.seen, device=scores.device))
            if one.accept(token):
                self._leave(first + index)

    def _leave(self, index: int) -> None:
        self.cache.leave(index)
        last = self.sequences.pop()
        if index < len(self.sequences):
            self.sequences[index] = last
        if not self.sequences:
            self.cache.clear()
