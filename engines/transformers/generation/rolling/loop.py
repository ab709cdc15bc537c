"""The loop that keeps one batch running: rows join it when they arrive and leave when they are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from transformers import PreTrainedModel

from engines.transformers.device import as_run_error
from engines.transformers.generation.cache_sizes import CacheSizes, Limits
from engines.transformers.generation.loop import GenerationLoop, ResultOf
from engines.transformers.generation.rolling.admission import Admission
from engines.transformers.generation.rolling.batches import RollingBatches
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from handlers.errors import is_out_of_memory


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
        self._admission = Admission(limits)
        self._batches = RollingBatches(model, limits.max_bytes // sizes.of_a_token)
        self._prefill: Prefill | None = None
        self._joined: list[TokenSequence] = []
        """Rows in a batch, or in the next prefill."""
        self._suspects: deque[TokenSequence] = deque()

    def _under_way(self) -> list[TokenSequence]:
        return [*self._joined, *self._suspects]

    def _work(self) -> None:
        self._drop_cancelled()
        if self._suspects and not self._joined:
            self._try_alone(self._suspects.popleft())
        if not self._suspects:
            self._work_prompts_in()
        if self._batches.sequences:
            self._batches.step()
            self._hand_out()

    def _failed(self, error: BaseException) -> None:
        """Empty the batch; if it had several rows, each is tried alone. Their tokens so far are kept: they go through
        the model again with the prompt."""
        entering, self._prefill = self._prefill, None
        taken = self._batches.tokens + (entering.width * len(entering.sequences) if entering else 0)
        self._batches.clear()
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
            self._bytes_at_once.shrink(taken * self._bytes_of_a_token)
            self._batches.most_tokens = int(self._bytes_at_once.most) // self._bytes_of_a_token
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
            self._batches.abandon()
        for one in gone:
            # A row in the prefill stays until that is done: its neighbours share it.
            if self._prefill is None or one not in entering:
                self._joined.remove(one)
                if one not in entering:
                    self._batches.leave(one)

    def _try_alone(self, sequence: TokenSequence) -> None:
        """Run a row alone, so that a failure is its own; then it joins the others. Two tokens suffice: one from the
        whole text so far, and one step. A row that was tried before runs alone to its end: one that fails only in
        company would fail again and again."""
        self._joined.append(sequence)
        self._begin([sequence])
        while self._prefill is not None and self._is_awaited(sequence):
            self._prefill_piece()
        steps = sequence.budget if sequence.was_tried else 1
        while steps and self._batches.sequences and self._is_awaited(sequence):
            self._batches.step()
            self.tell(sequence)
            steps -= 1
        self._hand_out()
        if self._batches.sequences and self._is_awaited(sequence):
            sequence.was_tried = True
            self._joined.remove(sequence)
            self._batches.clear()
            self._put_back([sequence])

    def _is_awaited(self, sequence: TokenSequence) -> bool:
        return not self._closed and not sequence.future.cancelled()

    def _work_prompts_in(self) -> None:
        limit = left = self._limits.prefill_tokens
        while left > 0:
            if self._prefill is None:
                with self._changed:
                    admitted, block = self._admission.take(self._waiting, self._batches, left, is_first=left == limit)
                if not admitted:
                    return
                self._joined += admitted
                self._begin(admitted, block)
            left -= self._prefill_piece()

    def _begin(self, sequences: Sequence[TokenSequence], block: int = 0) -> None:
        for one in sequences:
            one.on_begin()
            one.room_by = None
        self._prefill = Prefill(self._model, sequences)
        self._batches.expect(self._prefill, block)

    def _prefill_piece(self) -> int:
        """Run the next piece of the prompts, and return how many tokens it counts for. Images have no tokens yet;
        they use up one round between two steps."""
        prefill = self._prefill
        assert prefill is not None
        before = prefill.left
        scores = prefill.advance(self._model, self._limits.prefill_tokens)
        if scores is not None:
            self._prefill = None
            self._batches.join(prefill, scores)
            self._hand_out()
        return (before - prefill.left) * len(prefill.sequences) or self._limits.prefill_tokens

    def _hand_out(self) -> None:
        for one in self._joined[:]:
            if one.finish_reason is None:
                self.tell(one)
            else:
                self._joined.remove(one)
                self.settle(one)
