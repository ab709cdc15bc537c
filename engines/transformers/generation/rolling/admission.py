"""Decides which waiting rows join the running ones: by urgency, by room, and so that none waits for ever."""

from __future__ import annotations

from engines.transformers.generation.cache_sizes import Limits
from engines.transformers.generation.rolling.batches import RollingBatches
from engines.transformers.generation.rolling.room import Growth
from engines.transformers.generation.token_sequence import TokenSequence

_MOST_COMPARED = 16
"""With how many rows without room a waiting row is compared, before its room is computed."""


class Admission:
    """Takes rows off the queue as job schedulers do it, by backfilling.

    The first row without room is passed by as many rows of its priority as a batch has. After that, and by rows of
    lower priority, it is passed only by rows that end before it has room at the latest. So short rows run beside long
    ones that fill the cache, and a long one is not passed for ever. Used by the thread of one loop.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def take(
        self, waiting: list[TokenSequence], batches: RollingBatches, tokens: int, *, is_first: bool
    ) -> tuple[list[TokenSequence], int]:
        """Take the next rows out of `waiting`, which is in the order of urgency: as many as fit one block and share a
        prefill of `tokens`. Return them and the number of the block. The first of a round may have a longer prompt: it
        runs in pieces."""
        room = batches.room()
        admitted: list[TokenSequence] = []
        block = 0
        first: TokenSequence | None = None  # without room
        refused: list[Growth] = []
        for one in waiting[:]:
            if room.rows >= self._limits.max_rows:
                break
            if one.future.cancelled():
                continue
            row = self._growth(one)
            if any(other.fits_where(row) for other in refused):
                continue
            found = room.block_for(row)
            if found is None:
                if len(refused) < _MOST_COMPARED:
                    refused.append(row)
                first = first or one
                continue
            if first is not None and not self._may_pass(one, row, first, batches):
                continue
            if (admitted and found != block) or not self._shares_prefill(admitted, one, tokens, is_first):
                break
            if first is not None:
                first.passed += 1
            block = found
            room.join(block, row)
            admitted.append(one)
            waiting.remove(one)
        return admitted, block

    def _may_pass(self, one: TokenSequence, row: Growth, first: TokenSequence, batches: RollingBatches) -> bool:
        if one.priority == first.priority and first.passed < self._limits.max_rows:
            return True
        # Later where more urgent rows have joined meanwhile.
        if first.room_by is None or first.room_by < batches.steps:
            first.room_by = batches.steps + batches.room().steps_until(self._growth(first))
        return batches.steps + row.steps <= first.room_by

    def _growth(self, one: TokenSequence) -> Growth:
        more_pieces = (len(one.prompt) + len(one.tokens) - 1) // self._limits.prefill_tokens + bool(one.extras)
        return Growth.of(one, more_pieces)

    def _shares_prefill(self, admitted: list[TokenSequence], one: TokenSequence, tokens: int, is_first: bool) -> bool:
        if not admitted:
            return is_first or (not one.extras and len(one.seen) <= tokens)
        if one.extras or admitted[0].extras:
            return False
        lengths = [len(each.seen) for each in (*admitted, one)]
        area = max(lengths) * len(lengths)
        return area <= tokens and area - sum(lengths) <= self._limits.padding_share * area
