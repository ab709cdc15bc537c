"""A block of running rows: they grow by one token a step, join after a prefill and leave when done."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from engines.transformers.generation.rolling.cache import RollingCache
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.token_sequence import TokenSequence


class RollingBatch:
    """The running rows and their cache. Not thread-safe; one loop drives it under `torch.inference_mode`."""

    def __init__(self, model: PreTrainedModel, most_tokens: int) -> None:
        """`most_tokens` bounds the cache, including that of a prefill."""
        self.model = model
        self.sequences: list[TokenSequence] = []
        self.cache = RollingCache(len(DynamicCache(config=model.config).layers), most_tokens)

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
