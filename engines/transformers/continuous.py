"""Transformers' own continuous batching behind our interface, with the guards it lacks."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from engines.transformers.batch_generation import OnStep
from engines.transformers.cache_sizes import bytes_of_a_token
from engines.transformers.device import as_run_error
from engines.transformers.generation_loop import GenerationLoop, ResultOf, Ticket
from engines.transformers.limits import Limits
from engines.transformers.row import Row
from handlers.errors import InferenceFailed, InvalidInput

_BLOCK_TOKENS = 32
_WAIT_S = 0.05
"""How long to wait for the manager's next token before looking at cancellations and new requests."""


@dataclass(slots=True)
class _Running:
    """A ticket that the manager has, and how many tokens of the row it was given along with the prompt."""

    ticket: Ticket
    before: int


class ContinuousLoop(GenerationLoop):
    """Runs greedy rows in transformers' manager; what it cannot run, by `generate` when it is idle.

    The manager knows neither stop strings nor a row's own sampling, and any fault ends its thread for
    everybody. So rows are ended here, token by token, and cancelled there; after a fault the manager is made
    anew and each row tried alone: only the culprit's request fails. A row of the manager keeps what it has so
    far, others begin again.
    """

    gradients = torch.no_grad  # under inference_mode the manager fails every request, and does not say so

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        limits: Limits,
        result_of: ResultOf,
        *,
        generate: Callable[[Sequence[Row], OnStep], None],
        search: Callable[[Row, dict[str, Any], OnStep], None],
    ) -> None:
        """`generate` runs rows to their ends together, `search` one row by beam search."""
        super().__init__(name, result_of)
        self._model: Any = model
        self._limits = limits
        self._generate = generate
        self._search = search
        self._blocks = limits.max_bytes // (bytes_of_a_token(model.config, model.dtype) * _BLOCK_TOKENS)
        self._manager: Any = None
        self._numbers = itertools.count()
        self._running: dict[str, _Running] = {}
        self._batch: list[Ticket] = []
        self._suspects: deque[Ticket] = deque()

    def _check(self, row: Row) -> None:
        # A prompt beyond its cache is one of the faults that end the manager.
        most = self._blocks * _BLOCK_TOKENS
        if len(row.prompt) + row.budget > most:
            raise InvalidInput(
                f"prompt and answer need {len(row.prompt) + row.budget} tokens, transformers.kv_cache_bytes "
                f"allows {most} for model {self._name}; shorten the prompt, lower options.max_new_tokens, or "
                "raise it on the workers"
            )

    def _under_way(self) -> list[Ticket]:
        return [*(one.ticket for one in self._running.values()), *self._batch, *self._suspects]

    def _work(self) -> None:
        if self._running:
            self._cancel()
            self._collect()
        if self._suspects:
            if not self._running:
                self._start([self._suspects.popleft()])
            return
        tickets = self._next(self._limits.max_rows - len(self._running))
        if tickets and _suits_manager(tickets[0]):
            self._start(tickets)
        elif tickets:
            self._run_batch(tickets)

    def _failed(self, error: BaseException) -> None:
        tickets = [ticket for ticket in self._under_way() if not ticket.future.done()]
        self._running.clear()
        self._batch.clear()
        self._suspects.clear()
        self._let_manager_go()
        self._note_failure(tickets, error)
        if len(tickets) == 1:
            self.settle(tickets[0], as_run_error(error, self._name))
        else:
            for ticket in tickets:
                if not _suits_manager(ticket):
                    ticket.row.start_again()  # `generate` begins with the prompt
            self._suspects += tickets

    def _ended(self) -> None:
        self._let_manager_go()

    def _next(self, room: int) -> list[Ticket]:
        """Take the next tickets off the queue, all of the kind of the first, as soon as they may run."""
        taken: list[Ticket] = []
        with self._changed:
            while self._waiting and len(taken) < room:
                ticket = self._waiting[0]
                suits = _suits_manager(ticket)
                if (self._running and not suits) or (taken and not _go_together(taken[0], ticket)):
                    break
                self._waiting.pop(0)
                if not ticket.future.cancelled():
                    taken.append(ticket)
        return taken

    def _start(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            if not _suits_manager(ticket):
                self._run_batch([ticket])
                continue
            row, number = ticket.row, f"row-{next(self._numbers)}"
            self._running[number] = _Running(ticket, len(row.tokens))
            accepted = self._manager_at_work().add_request(
                row.seen,
                request_id=number,
                max_new_tokens=row.budget - len(row.tokens),
                streaming=True,
                eos_token_id=sorted(row.ends) or -1,
            )
            if accepted is None:
                raise RuntimeError("transformers' manager of continuous batching takes no requests")

    def _run_batch(self, tickets: list[Ticket]) -> None:
        """Run rows that the manager cannot; it is idle, and lets go of the model's attention first."""
        self._let_manager_go()
        self._batch = tickets
        on_step = partial(self.follow, tickets)
        with torch.inference_mode():
            if tickets[0].beams:
                self._search(tickets[0].row, dict(tickets[0].beams), on_step)
            else:
                self._generate([ticket.row for ticket in tickets], on_step)
        for ticket in tickets:
            self.settle(ticket)
        self._batch = []

    def _cancel(self) -> None:
        for number, one in list(self._running.items()):
            if one.ticket.future.cancelled():
                del self._running[number]
                self._manager.cancel_request(number)

    def _collect(self) -> None:
        """Give rows the tokens that have come, and look whether the manager still lives."""
        output = self._manager.get_result(timeout=_WAIT_S)
        while output is not None:
            one = self._running.get(output.request_id)
            if one is not None:
                if output.error is not None:
                    raise InferenceFailed(f"model {self._name} refuses this input: {output.error}")
                self._take(output.request_id, one, output.generated_tokens)
            output = self._manager.get_result(timeout=0.0)
        fault = self._manager.background_thread_status.fatal_error
        if fault is not None and self._running:
            raise fault
        if self._running and not self._manager.is_running():
            raise RuntimeError("transformers' manager of continuous batching has ended")

    def _take(self, number: str, one: _Running, tokens: Sequence[int]) -> None:
        row = one.ticket.row
        for token in tokens[len(row.tokens) - one.before :]:
            if row.accept(token):
                break
        if row.finish_reason is None:
            self.tell(one.ticket)
            return
        del self._running[number]
        self._manager.cancel_request(number)  # a stop string is no end to the manager
        self.settle(one.ticket)

    def _manager_at_work(self) -> Any:
        if self._manager is None:
            self._manager = self._model.init_continuous_batching(
                GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),  # type: ignore[no-untyped-call]
                ContinuousBatchingConfig(
                    block_size=_BLOCK_TOKENS,
                    num_blocks=self._blocks,
                    max_batch_tokens=max(self._limits.prefill_tokens, self._limits.max_rows),
                    max_requests_per_batch=self._limits.max_rows,
                ),
            )
            self._manager.start()
        return self._manager

    def _let_manager_go(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop(block=True, hard_stop=True)


def _suits_manager(ticket: Ticket) -> bool:
    return ticket.row.picker.sampling.is_plain and not ticket.row.extras and not ticket.beams


def _go_together(first: Ticket, ticket: Ticket) -> bool:
    return _suits_manager(first) == _suits_manager(ticket) and not first.beams and not ticket.beams
