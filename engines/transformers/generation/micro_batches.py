"""The loop for models and requests that cannot join a running batch: small batches of alike rows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engines.transformers.device import as_run_error, is_out_of_memory
from engines.transformers.generation.batch_generation import SOURCE, OnStep
from engines.transformers.generation.cache_sizes import CacheSizes
from engines.transformers.generation.loop import GenerationLoop, ResultOf, Ticket
from engines.transformers.generation.row import Row
from handlers.logger import get_logger

log = get_logger(__name__)

_AGEING_TOKENS_PER_S = 16.0
"""How much shorter a waiting row counts each second, so that a long one is not passed over for ever."""


class MicroBatchLoop(GenerationLoop):
    """Runs rows with `generate`, those of like budgets together; each gets its answer when its own is done.

    A batch takes at most `max_bytes` of cache, all its rows as long as the longest may grow; one row always runs.
    A request with beams runs alone. A batch that fails is cut in two until the culprit is found; where one does
    not fit the memory, half of what it took is the most from then on.
    """

    def __init__(
        self,
        name: str,
        max_rows: int,
        max_bytes: int,
        result_of: ResultOf,
        *,
        sizes: CacheSizes,
        generate: Callable[[Sequence[Row], OnStep], None],
        search: Callable[[Row, dict[str, Any], OnStep], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`generate` runs rows to their ends together, `search` one row by beam search."""
        super().__init__(name, result_of, clock)
        self._generate = generate
        self._search = search
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._sizes = sizes
        self._running: list[Ticket] = []
        self._halves: deque[list[Ticket]] = deque()

    def _under_way(self) -> list[Ticket]:
        return [*self._running, *(ticket for half in self._halves for ticket in half)]

    def _work(self) -> None:
        batch = self._halves.popleft() if self._halves else self._next_batch()
        self._running = [ticket for ticket in batch if not ticket.future.cancelled()]
        if not self._running:
            return
        on_step = partial(self.follow, self._running)
        if self._running[0].beams:
            self._search(self._running[0].row, dict(self._running[0].beams), on_step)
        else:
            self._generate([ticket.row for ticket in self._running], on_step)
        for ticket in self._running:
            self.settle(ticket)
        self._running = []

    def _failed(self, error: BaseException) -> None:
        batch, self._running = self._running, []
        left = [ticket for ticket in batch if not ticket.future.done()]
        self._note_failure(left, error)
        if len(left) == 1:
            self.settle(left[0], as_run_error(error, self._name))
            return
        if is_out_of_memory(error):
            self._max_bytes = min(self._max_bytes, self._bytes(batch) // 2)
            log.warning("batches_made_smaller", model=self._name, max_bytes=self._max_bytes)
        middle = len(left) // 2
        for ticket in left:
            ticket.row.start_again()
        self._halves.extendleft([left[middle:], left[:middle]])

    def _next_batch(self) -> list[Ticket]:
        """Take the shortest of the most urgent rows off the queue; those that have waited count as shorter."""
        now = self._clock()
        with self._changed:
            order = sorted(
                self._waiting,
                key=lambda ticket: (
                    ticket.turn[0],
                    ticket.row.budget - (now - ticket.since) * _AGEING_TOKENS_PER_S,
                ),
            )
            batch = order[:1]
            if batch and not batch[0].beams:
                batch = self._fitting([ticket for ticket in order if not ticket.beams])
            for ticket in batch:
                self._waiting.remove(ticket)
        return batch

    def _fitting(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Return the first of `tickets` that fit a batch, at least one."""
        batch: list[Ticket] = []
        for ticket in tickets[: self._max_rows]:
            if batch and self._bytes([*batch, ticket]) > self._max_bytes:
                break
            batch.append(ticket)
        return batch

    def _bytes(self, tickets: Sequence[Ticket]) -> int:
        """Return the bytes of cache that a batch may come to.

        Every row takes as much as the longest of each part: what an encoder reads, the prompt and the answer.
        """
        rows = [ticket.row for ticket in tickets]
        read = max(row.extras[SOURCE].shape[1] if SOURCE in row.extras else 0 for row in rows)
        most = read + max(len(row.prompt) for row in rows) + max(row.budget for row in rows)
        return len(rows) * self._sizes.of(most)
