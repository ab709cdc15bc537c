"""The running rows of a model: in one block of cache, or in two where the first has no room for short rows."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from engines.transformers.generation.rolling.batch import RollingBatch
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.rolling.room import Growth, Room, most_tokens
from engines.transformers.generation.token_sequence import TokenSequence

_BLOCKS = 2
"""Long rows and short ones: every row of a block takes as much as its longest."""


class RollingBatches:
    """Blocks of rows that share the memory for the cache; every step grows all rows by a token. Not thread-safe; one
    loop drives it under `torch.inference_mode`."""

    def __init__(self, model: PreTrainedModel, most_tokens: int) -> None:
        self.most_tokens = most_tokens
        """The bound of the cache of all blocks, including that of a prefill."""
        self.steps = 0
        """How many steps were made."""
        self._batches = [RollingBatch(model, most_tokens) for _ in range(_BLOCKS)]
        self._entered = self._batches[0]
        """The block that the rows of the prefill join."""

    @property
    def sequences(self) -> list[TokenSequence]:
        return [one for batch in self._batches for one in batch.sequences]

    @property
    def tokens(self) -> int:
        """The cache that the rows take now."""
        return sum(batch.cache.rows * batch.cache.width for batch in self._batches)

    def room(self) -> Room:
        """Return the room for more rows."""
        return Room(self._growths(), self.most_tokens)

    def expect(self, prefill: Prefill, block: int = 0) -> None:
        """Keep memory for rows that join this block after their prefill."""
        self._entered = self._batches[block]
        self._share_memory([Growth.of(one) for one in prefill.sequences])
        self._entered.cache.make_way(prefill.width * len(prefill.sequences))

    def abandon(self) -> None:
        """Expect no rows any more."""
        self._entered.cache.make_way(0)

    def join(self, prefill: Prefill, scores: torch.Tensor) -> None:
        """Add the rows of the expected prefill with their first tokens; rows that are done by it stay out."""
        self._entered.join(prefill, scores)

    def step(self) -> None:
        """Grow every row by one token; rows that are done leave."""
        self.steps += 1
        running = [batch for batch in self._batches if batch.sequences]
        for batch in running:
            batch.step()

    def leave(self, sequence: TokenSequence) -> None:
        next(batch for batch in self._batches if sequence in batch.sequences).leave(sequence)

    def clear(self) -> None:
        for batch in self._batches:
            batch.clear()

    def _growths(self) -> list[list[Growth]]:
        return [[Growth.of(one) for one in batch.sequences] for batch in self._batches]

    def _share_memory(self, entering: list[Growth]) -> None:
        """Bound each block by what its rows will need, and an equal part of the rest."""
        needs = [
            most_tokens([*rows, *(entering if batch is self._entered else ())])
            for batch, rows in zip(self._batches, self._growths(), strict=True)
        ]
        used = [need for need in needs if need]
        rest = max(0, self.most_tokens - sum(needs)) // len(used)
        for batch, need in zip(self._batches, needs, strict=True):
            if need:
                batch.cache.limit(need + rest)
