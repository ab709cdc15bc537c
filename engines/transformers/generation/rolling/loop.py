"""The loop that keeps one batch running: rows join it as they come and leave as they are done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from transformers import PreTrainedModel

from engines.transformers.device import as_run_error, is_out_of_memory
from engines.transformers.generation.cache_sizes import Limits
from engines.transformers.generation.loop import GenerationLoop, ResultOf, Ticket
from engines.transformers.generation.rolling.batch import Growth, RollingBatch, most_tokens
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.row import Row
from handlers.errors import InvalidInput
from handlers.logger import get_logger

log = get_logger(__name__)

_MOST_PASSED_AT_ONCE = 8
"""Waiting rows without room that are looked past for smaller ones, in one round: to look costs time at each step."""


class RollingLoop(GenerationLoop):
    """Grows all rows of one model together, so that none waits for another to end.

    Between two steps of the running rows, at most `limits.prefill_tokens` of waiting prompts are worked in.
    Rows wait where the batch is full or its cache would outgrow `limits.max_bytes`. Where the model fails, each
    row is tried alone, with what it has so far: only the culprit's request fails, and the others go on together.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        limits: Limits,
        result_of: ResultOf,
        bytes_of_a_token: int,
    ) -> None:
        """`bytes_of_a_token` is what one token of one row takes of the cache, over all layers."""
        super().__init__(name, result_of)
        self._model = model
        self._limits = limits
        self._bytes_of_a_token = bytes_of_a_token
        self._max_bytes = limits.max_bytes
        """Most bytes of cache for several rows; less than the limits have where the memory proved too small."""
        self._batch = RollingBatch(model, limits.max_bytes // bytes_of_a_token)
        self._prefill: Prefill | None = None
        self._tickets: dict[Row, Ticket] = {}
        self._suspects: deque[Ticket] = deque()

    def _check(self, row: Row) -> None:
        need = self._bytes(row)
        if need > self._limits.max_bytes:
            raise InvalidInput(
                f"prompt and answer need {need} bytes of cache, transformers.kv_cache_bytes allows "
                f"{self._limits.max_bytes} for model {self._name}; shorten the prompt, lower "
                "options.max_new_tokens, or raise it on the workers"
            )

    def _under_way(self) -> list[Ticket]:
        return [*self._tickets.values(), *self._suspects]

    def _work(self) -> None:
        self._drop_cancelled()
        if self._suspects and not self._tickets:
            self._try_alone(self._suspects.popleft())
        if not self._suspects:
            self._work_prompts_in()
        if self._batch.rows:
            self._batch.step()
            self._hand_out()

    def _failed(self, error: BaseException) -> None:
        """Empty the batch; with several rows in it, any may be at fault, so each is tried alone.

        Their tokens so far stay: they go through the model again along with the prompt.
        """
        entering, self._prefill = self._prefill, None
        self._batch.clear()
        tickets = [ticket for ticket in self._tickets.values() if not self._is_over(ticket)]
        self._tickets.clear()
        self._note_failure(tickets, error)
        if len(tickets) <= 1:
            for ticket in tickets:
                self.settle(ticket, as_run_error(error, self._name))
        elif is_out_of_memory(error) and entering is not None and entering.rows[0].extras:
            # Its images, most likely: that alone does not call for fewer rows from now on.
            suspect = [ticket for ticket in tickets if ticket.row in entering.rows]
            self._suspects += suspect
            self._put_back(ticket for ticket in tickets if ticket not in suspect)
        elif is_out_of_memory(error):
            self._bound(self._bytes_taken(tickets) // 2)
            self._put_back(tickets)
        else:
            self._suspects += tickets

    def _bound(self, max_bytes: int) -> None:
        """Let rows that grow together, and the room that they have to grow, take fewer bytes from now on."""
        self._max_bytes = min(self._max_bytes, max_bytes)
        self._batch = RollingBatch(self._model, self._max_bytes // self._bytes_of_a_token)
        log.warning("batches_made_smaller", model=self._name, max_bytes=self._max_bytes)

    def _is_over(self, ticket: Ticket) -> bool:
        if ticket.row.finish_reason is not None:
            self.settle(ticket)
        return ticket.future.done()

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._waiting = [ticket for ticket in self._waiting if not ticket.future.cancelled()]
        self._suspects = deque(ticket for ticket in self._suspects if not ticket.future.cancelled())
        entering = self._prefill.rows if self._prefill else []
        if entering and all(self._tickets[row].future.cancelled() for row in entering):
            self._prefill = None
            self._batch.expect(None)
            for row in entering:
                del self._tickets[row]
            entering = []
        for row, ticket in list(self._tickets.items()):
            # A row whose prompt is going in stays until it is: its neighbours share that prefill.
            if ticket.future.cancelled() and row not in entering:
                self._batch.leave(row)
                del self._tickets[row]

    def _try_alone(self, ticket: Ticket) -> None:
        """Run one row with nothing beside it, so that what fails is its own fault; then it joins the others.

        Two tokens show it: one from the whole text so far, one step. A row that was tried before runs to its end:
        what fails only in company would fail again and again.
        """
        self._tickets[ticket.row] = ticket
        self._begin([ticket.row])
        while self._prefill is not None and self._is_awaited(ticket):
            self._prefill_piece()
        steps = ticket.row.budget if ticket.was_tried else 1
        while steps and self._batch.rows and self._is_awaited(ticket):
            self._batch.step()
            self.tell(ticket)
            steps -= 1
        self._hand_out()
        if self._batch.rows and self._is_awaited(ticket):
            ticket.was_tried = True
            del self._tickets[ticket.row]
            self._batch.clear()
            self._put_back([ticket])

    def _is_awaited(self, ticket: Ticket) -> bool:
        return not self._closed and not ticket.future.cancelled()

    def _work_prompts_in(self) -> None:
        """Run waiting prompts through the model, up to the bound on tokens between two steps."""
        limit = left = self._limits.prefill_tokens
        while left > 0:
            if self._prefill is None:
                rows = self._admit(left, is_first=left == limit)
                if not rows:
                    return
                self._begin(rows)
            left -= self._prefill_piece()

    def _begin(self, rows: Sequence[Row]) -> None:
        self._prefill = Prefill(self._model, rows)
        self._batch.expect(self._prefill)

    def _prefill_piece(self) -> int:
        """Run the next piece of the prompts that are going in, and return how many tokens it counts for.

        Images have no tokens yet; they fill what goes in between two steps.
        """
        prefill = self._prefill
        assert prefill is not None
        before = prefill.left
        scores = prefill.advance(self._model, self._limits.prefill_tokens)
        if scores is not None:
            self._prefill = None
            self._batch.join(prefill, scores)
            self._hand_out()
        return (before - prefill.left) * len(prefill.rows) or self._limits.prefill_tokens

    def _admit(self, tokens: int, *, is_first: bool) -> list[Row]:
        """Take the next rows off the queue: as many as fit the batch and share a prefill of `tokens`.

        The first of a round may be longer: it goes in by pieces. Where a row has no room yet, those after it of
        the same priority may pass, up to as many as a batch has; after that, all wait for its room.
        """
        rows: list[Row] = []
        passed: list[Ticket] = []
        with self._changed:
            for ticket in self._waiting[:]:
                row = ticket.row
                if ticket.future.cancelled():
                    continue
                if (
                    len(self._batch.rows) + len(rows) >= self._limits.max_rows
                    or len(passed) > _MOST_PASSED_AT_ONCE
                ):
                    break
                if not all(self._may_pass(ticket, earlier) for earlier in passed):
                    break
                if not self._has_room(rows, row):
                    passed.append(ticket)
                    continue
                if not self._shares_prefill(rows, row, tokens, is_first):
                    break
                self._waiting.remove(ticket)
                for earlier in passed:
                    earlier.passed += 1
                rows.append(row)
                self._tickets[row] = ticket
        return rows

    def _may_pass(self, ticket: Ticket, earlier: Ticket) -> bool:
        return earlier.passed < self._limits.max_rows and ticket.turn[0][0] == earlier.turn[0][0]

    def _has_room(self, rows: Sequence[Row], row: Row) -> bool:
        """Return whether the block will have room for the running rows, `rows` and `row` until they all end."""
        if not self._batch.rows and not rows:
            return True
        entering = (Growth.of(one, self._pieces(one) - 1) for one in (*rows, row))
        growing = (*map(Growth.of, self._batch.rows), *entering)
        return most_tokens(growing) * self._bytes_of_a_token <= self._max_bytes

    def _pieces(self, row: Row) -> int:
        """Return in how many pieces the row's prompt goes in."""
        return math.ceil(len(row.seen) / self._limits.prefill_tokens) + bool(row.extras)

    def _shares_prefill(self, rows: Sequence[Row], row: Row, tokens: int, is_first: bool) -> bool:
        if not rows:
            return is_first or (not row.extras and len(row.seen) <= tokens)
        if row.extras or rows[0].extras:
            return False
        lengths = [len(one.seen) for one in (*rows, row)]
        area = max(lengths) * len(lengths)
        return area <= tokens and area - sum(lengths) <= self._limits.padding_share * area

    def _bytes(self, row: Row) -> int:
        """Return the bytes of cache that the row takes when it has grown to its budget."""
        return (len(row.prompt) + row.budget) * self._bytes_of_a_token

    def _bytes_taken(self, tickets: Sequence[Ticket]) -> int:
        """Return the bytes of cache of rows as they are, each as wide as the longest."""
        return len(tickets) * max(len(ticket.row.seen) for ticket in tickets) * self._bytes_of_a_token

    def _hand_out(self) -> None:
        """Tell callers of new text, and give those whose rows are done their answers."""
        for row, ticket in list(self._tickets.items()):
            if row.finish_reason is None:
                self.tell(ticket)
            else:
                del self._tickets[row]
                self.settle(ticket)
