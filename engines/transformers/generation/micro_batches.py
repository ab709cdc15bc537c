"""The loop for models and requests that cannot join a running batch: small batches of similar ones."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from engines.transformers.device import as_run_error
from engines.transformers.generation.batch_generation import SOURCE, OnStep
from engines.transformers.generation.cache_sizes import CacheSizes
from engines.transformers.generation.loop import GenerationLoop, ResultOf
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from handlers.errors import is_out_of_memory

_AGEING_TOKENS_PER_S = 16.0
"""How much shorter a waiting row counts per second, so that a long one is not passed over for ever."""


class MicroBatchLoop(GenerationLoop):
    """Runs rows with similar budgets together by `generate`; each is answered when it is done itself. A batch takes
    at most `max_bytes` of cache, if all its rows grow as long as the longest may; a single row always runs. A request
    with beams runs alone. A batch that fails is bisected; where one does not fit the memory, the limit becomes half
    of its bytes."""

    def __init__(
        self,
        name: str,
        max_rows: int,
        max_bytes: int,
        result_of: ResultOf,
        *,
        sizes: CacheSizes,
        generate: Callable[[Sequence[TokenSequence], OnStep], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, result_of, clock)
        self._generate = generate
        self._max_rows = max_rows
        self._bytes_at_once = ShrinkOnOutOfMemory(name, of="bytes of cache", most=max_bytes)
        self._sizes = sizes
        self._running: list[TokenSequence] = []
        self._halves: deque[list[TokenSequence]] = deque()

    def _under_way(self) -> list[TokenSequence]:
        return [*self._running, *(sequence for half in self._halves for sequence in half)]

    def _work(self) -> None:
        batch = self._halves.popleft() if self._halves else self._next_batch()
        self._running = [sequence for sequence in batch if not sequence.future.cancelled()]
        if not self._running:
            return
        self._generate(self._running, partial(self.follow, self._running))
        for sequence in self._running:
            self.settle(sequence)
        self._running = []

    def _failed(self, error: BaseException) -> None:
        batch, self._running = self._running, []
        left = [sequence for sequence in batch if not sequence.future.done()]
        self._note_failure(left, error)
        if len(left) == 1:
            self.settle(left[0], as_run_error(error, self._name))
            return
        if is_out_of_memory(error):
            self._bytes_at_once.shrink(self._bytes(batch))
        middle = len(left) // 2
        for sequence in left:
            sequence.start_again()
        self._halves.extendleft([left[middle:], left[:middle]])

    def _next_batch(self) -> list[TokenSequence]:
        """Take the shortest of the most urgent rows off the queue; waiting makes them count as shorter."""
        now = self._clock()
        with self._changed:
            order = sorted(
                self._waiting,
                key=lambda one: (one.sort_key[0], one.budget - (now - one.since) * _AGEING_TOKENS_PER_S),
            )
            batch = order[:1]
            if batch and not batch[0].beams:
                batch = self._fitting([sequence for sequence in order if not sequence.beams])
            for sequence in batch:
                self._waiting.remove(sequence)
        return batch

    def _fitting(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        batch: list[TokenSequence] = []
        for sequence in sequences[: self._max_rows]:
            if batch and self._bytes([*batch, sequence]) > self._bytes_at_once.most:
                break
            batch.append(sequence)
        return batch

    def _bytes(self, sequences: Sequence[TokenSequence]) -> int:
        """Return the most bytes of cache that a batch may take. Every row takes as much as the longest of each part:
        encoder input, prompt and answer."""
        read = max(one.extras[SOURCE].shape[1] if SOURCE in one.extras else 0 for one in sequences)
        most = read + max(len(one.prompt) for one in sequences) + max(one.budget for one in sequences)
        return len(sequences) * self._sizes.of(most)
