"""The loop that keeps one batch running: rows join it when they arrive and leave when they are done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from transformers import PreTrainedModel

from engines.transformers.device import as_run_error
from engines.transformers.generation.cache_sizes import CacheSizes, Limits
from engines.transformers.generation.loop import GenerationLoop, ResultOf
from engines.transformers.generation.rolling.batch import Growth, RollingBatch, most_tokens
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from handlers.errors import is_out_of_memory

_MOST_PASSED_AT_ONCE = 8
"""How many waiting rows without room are skipped in one round, to look for smaller ones: looking takes time."""


class RollingLoop(GenerationLoop):
    """Grows all rows of one model together, so that none waits for another to end. Between two steps of the running
    rows, at most `limits.prefill_tokens` of waiting prompts are run. Rows wait while the batch is full or its cache
    would outgrow `limits.max_bytes`. When the model fails, each row is tried alone, with its tokens so far: only the
    culprit's request fails, and the others go on together."""

    def __init__(
        self, name: str, model: PreTrainedModel, limits: Limits, result_of: ResultOf, sizes: CacheSizes
    ) -> None:
        super().__init__(name, result_of)
        self._model = model
        self._limits = limits
        self._bytes_of_a_token = sizes.of_a_token
        self._bytes_at_once = ShrinkOnOutOfMemory(name, of="bytes of cache", most=limits.max_bytes)
        self._batch = RollingBatch(model, limits.max_bytes // sizes.of_a_token)
        self._prefill: Prefill | None = None
        self._joined: list[TokenSequence] = []
        """Rows in the batch, or in the next prefill."""
        self._suspects: deque[TokenSequence] = deque()

    def _under_way(self) -> list[TokenSequence]:
        return [*self._joined, *self._suspects]

    def _work(self) -> None:
        self._drop_cancelled()
        if self._suspects and not self._joined:
            self._try_alone(self._suspects.popleft())
        if not self._suspects:
            self._work_prompts_in()
        if self._batch.sequences:
            self._batch.step()
            self._hand_out()

    def _failed(self, error: BaseException) -> None:
        """Empty the batch; if it had several rows, each is tried alone. Their tokens so far are kept: they go through
        the model again with the prompt."""
        entering, self._prefill = self._prefill, None
        self._batch.clear()
        left = [one for one in self._joined if not self._is_over(one)]
        self._joined.clear()
        self._note_failure(left, error)
        if len(left) <= 1:
            for one in left:
                self.settle(one, as_run_error(error, self._name))
        elif is_out_of_memory(error) and entering is not None and entering.sequences[0].extras:
            # Its images, most likely: that alone does not call for fewer rows from now on.
            self._suspects += [one for one in left if one in entering.sequences]
            self._put_back(one for one in left if one not in entering.sequences)
        elif is_out_of_memory(error):
            # Each row is as wide as the longest.
            self._bytes_at_once.shrink(len(left) * max(len(one.seen) for one in left) * self._bytes_of_a_token)
            self._batch = RollingBatch(self._model, int(self._bytes_at_once.most) // self._bytes_of_a_token)
            self._put_back(left)
        else:
            self._suspects += left

    def _is_over(self, sequence: TokenSequence) -> bool:
        if sequence.finish_reason is not None:
            self.settle(sequence)
        return sequence.future.done()

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._waiting = [one for one in self._waiting if not one.future.cancelled()]
        self._suspects = deque(one for one in self._suspects if not one.future.cancelled())
        gone = [one for one in self._joined if one.future.cancelled()]
        entering = self._prefill.sequences if self._prefill else []
        if entering and all(one in gone for one in entering):
            self._prefill = None
            self._batch.expect(None)
        for one in gone:
            # A row in the prefill stays until that is done: its neighbours share it.
            if self._prefill is None or one not in entering:
                self._joined.remove(one)
                if one not in entering:
                    self._batch.leave(one)

    def _try_alone(self, sequence: TokenSequence) -> None:
        """Run a row alone, so that a failure is its own; then it joins the others. Two tokens suffice: one from the
        whole text so far, and one step. A row that was tried before runs alone to its end: one that fails only in
        company would fail again and again."""
        self._joined.append(sequence)
        self._begin([sequence])
        while self._prefill is not None and self._is_awaited(sequence):
            self._prefill_piece()
        steps = sequence.budget if sequence.was_tried else 1
        while steps and self._batch.sequences and self._is_awaited(sequence):
            self._batch.step()
            self.tell(sequence)
            steps -= 1
        self._hand_out()
        if self._batch.sequences and self._is_awaited(sequence):
            sequence.was_tried = True
            self._joined.remove(sequence)
            self._batch.clear()
            self._put_back([sequence])

    def _is_awaited(self, sequence: TokenSequence) -> bool:
        return not self._closed and not sequence.future.cancelled()

    def _work_prompts_in(self) -> None:
        limit = left = self._limits.prefill_tokens
        while left > 0:
            if self._prefill is None:
                admitted = self._admit(left, is_first=left == limit)
                if not admitted:
                    return
                self._begin(admitted)
            left -= self._prefill_piece()

    def _begin(self, sequences: Sequence[TokenSequence]) -> None:
        self._prefill = Prefill(self._model, sequences)
        self._batch.expect(self._prefill)

    def _prefill_piece(self) -> int:
        """Run the next piece of the prompts, and return how many tokens it counts for. Images have no tokens yet;
        they use up one round between two steps."""
        prefill = self._prefill
        assert prefill is not None
        before = prefill.left
        scores = prefill.advance(self._model, self._limits.prefill_tokens)
        if scores is not None:
            self._prefill = None
            self._batch.join(prefill, scores)
            self._hand_out()
        return (before - prefill.left) * len(prefill.sequences) or self._limits.prefill_tokens

    def _admit(self, tokens: int, *, is_first: bool) -> list[TokenSequence]:
        """Take the next rows off the queue: as many as fit the batch and share a prefill of `tokens`. The first of a
        round may be longer: it runs in pieces. If a row has no room yet, later ones of the same priority may pass it,
        up to as many as a batch has; after that, all wait for its room."""
        admitted: list[TokenSequence] = []
        passed: list[TokenSequence] = []
        with self._changed:
            for one in self._waiting[:]:
                if one.future.cancelled():
                    continue
                is_full = len(self._batch.sequences) + len(admitted) >= self._limits.max_rows
                if is_full or len(passed) > _MOST_PASSED_AT_ONCE:
                    break
                if any(
                    earlier.passed >= self._limits.max_rows or earlier.sort_key[0][0] != one.sort_key[0][0]
                    for earlier in passed
                ):
                    break
                if not self._has_room(admitted, one):
                    passed.append(one)
                    continue
                if not self._shares_prefill(admitted, one, tokens, is_first):
                    break
                self._waiting.remove(one)
                for earlier in passed:
                    earlier.passed += 1
                admitted.append(one)
        self._joined += admitted
        return admitted

    def _has_room(self, admitted: Sequence[TokenSequence], one: TokenSequence) -> bool:
        """Return whether the block has room for the running rows, `admitted` and `one` until they all end."""
        if not self._batch.sequences and not admitted:
            return True
        entering = (Growth.of(each, self._pieces(each) - 1) for each in (*admitted, one))
        growing = (*map(Growth.of, self._batch.sequences), *entering)
        return most_tokens(growing) * self._bytes_of_a_token <= self._bytes_at_once.most

    def _pieces(self, one: TokenSequence) -> int:
        return math.ceil(len(one.seen) / self._limits.prefill_tokens) + bool(one.extras)

    def _shares_prefill(
        self, admitted: Sequence[TokenSequence], one: TokenSequence, tokens: int, is_first: bool
    ) -> bool:
        if not admitted:
            return is_first or (not one.extras and len(one.seen) <= tokens)
        if one.extras or admitted[0].extras:
            return False
        lengths = [len(each.seen) for each in (*admitted, one)]
        area = max(lengths) * len(lengths)
        return area <= tokens and area - sum(lengths) <= self._limits.padding_share * area

    def _hand_out(self) -> None:
        for one in self._joined[:]:
            if one.finish_reason is None:
                self.tell(one)
            else:
                self._joined.remove(one)
                self.settle(one)
