"""A batch of rows that grow together, one token a step; rows join after a prefill and leave when done."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from engines.transformers.rolling.cache import RollingCache
from engines.transformers.row import Row


class Prefill:
    """Rows on their way into the batch: their prompts go through the model in pieces of bounded size."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[Row]) -> None:
        """Several rows go together, padded on the left; a row with extras goes alone and in one piece."""
        self.rows = list(rows)
        self.cache = DynamicCache(config=model.config)
        self.lengths = [len(row.seen) for row in rows]
        self.width = max(self.lengths)
        self._done = 0
        device = model.device
        paddings = [self.width - length for length in self.lengths]
        self._ids = torch.tensor(
            [[0] * padding + row.seen for padding, row in zip(paddings, rows, strict=True)], device=device
        )
        self._mask = torch.tensor(
            [[0] * padding + [1] * length for padding, length in zip(paddings, self.lengths, strict=True)],
            device=device,
        )
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._is_padded = any(paddings)

    @property
    def left(self) -> int:
        """How many columns of the prompts are still to go through the model."""
        return self.width - self._done

    def advance(self, model: PreTrainedModel, most_tokens: int) -> torch.Tensor | None:
        """Run the next piece; return the scores of the first new tokens, (rows, vocabulary), after the last."""
        extras = self.rows[0].extras
        step = self.width if extras else max(1, most_tokens // len(self.rows))
        piece = slice(self._done, min(self._done + step, self.width))
        is_last = piece.stop == self.width
        output: Any = model(
            input_ids=self._ids[:, piece],
            # Without padding and in one piece, the model's own causal mask is faster than any of ours.
            attention_mask=self._mask[:, : piece.stop] if self._is_padded or self._done or extras else None,
            position_ids=None if extras else self._positions[:, piece],
            past_key_values=self.cache,
            use_cache=True,
            **extras,
            **_last_scores_only(model),
        )
        self._done = piece.stop
        return output.logits[:, -1] if is_last else None


class RollingBatch:
    """The running rows and their cache. Not thread-safe; one loop drives it under `torch.inference_mode`."""

    def __init__(self, model: PreTrainedModel, most_tokens: int) -> None:
        """`most_tokens` is how many the cache may have room for, those of a prefill among them."""
        self.model = model
        self.rows: list[Row] = []
        self.cache = RollingCache(len(DynamicCache(config=model.config).layers), most_tokens)

    def expect(self, prefill: Prefill | None) -> None:
        """Leave room for the keys and values of a prefill until it joins; None where it does not."""
        self.cache.make_way(prefill.width * len(prefill.rows) if prefill else 0)

    def join(self, prefill: Prefill, scores: torch.Tensor) -> None:
        """Take in the rows of a finished prefill with their first tokens; those done by it stay out."""
        self.cache.join(prefill.cache, prefill.lengths)
        self.rows += prefill.rows
        self._accept(scores, first=len(self.rows) - len(prefill.rows))

    def step(self) -> None:
        """Grow every row by one token; rows that are done leave."""
        device = self.model.device
        self.cache.reserve(1)
        output: Any = self.model(
            input_ids=torch.tensor([[row.tokens[-1]] for row in self.rows], device=device),
            attention_mask=self.cache.mask(1, device),
            position_ids=torch.tensor(self.cache.lengths(), device=device)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache.advance(1)
        self._accept(output.logits[:, -1], first=0)

    def leave(self, row: Row) -> None:
        """Drop a row that is not done, as its caller has gone."""
        self._leave(self.rows.index(row))

    def clear(self) -> list[Row]:
        """Drop every row and the cache's memory; return the rows as they are."""
        rows, self.rows = self.rows, []
        self.cache.clear()
        return rows

    def _accept(self, scores: torch.Tensor, *, first: int) -> None:
        """Give each row from `first` on its next token.

        Each takes the token that it picked before another picks: where a pick fails, no row has drawn one that
        it does not have.
        """
        rows = self.rows[first:]
        likeliest = scores.argmax(-1).tolist()
        # From the last to the first: whoever takes a leaving row's place has had its token already.
        for index in reversed(range(len(rows))):
            row, token = rows[index], likeliest[index]
            if not row.picker.sampling.is_plain:
                token = row.picker.pick(scores[index], torch.tensor(row.seen, device=scores.device))
            if row.accept(token):
                self._leave(first + index)

    def _leave(self, index: int) -> None:
        self.cache.leave(index)
        last = self.rows.pop()
        if index < len(self.rows):
            self.rows[index] = last
        if not self.rows:
            self.cache.clear()


def _last_scores_only(model: PreTrainedModel) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
