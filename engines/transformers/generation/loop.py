"""What every loop that generates text has in common: a thread, a queue, and callers who wait for their rows."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from engines.base import NO_HURRY, Emit, Urgency
from engines.log_context import RequestName, requests_at_hand, working_on
from engines.transformers.device import as_run_error, free_memory, is_out_of_memory
from engines.transformers.generation.row import Row
from engines.transformers.process_state import running
from handlers.errors import Cancelled, InferenceError
from handlers.logger import get_logger

log = get_logger(__name__)

ResultOf = Callable[[Row], dict[str, Any]]


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: its row, its future, and what is told as it grows. `beams` are its options of beam search."""

    row: Row
    future: Future[dict[str, Any]]
    since: float
    """When it was taken, by the loop's clock."""
    turn: tuple[Urgency, int]
    """The smallest is next: the most urgent, and among equals the first that came."""
    emit: Emit | None = None
    beams: Mapping[str, Any] = field(default_factory=dict)
    told: int = 0
    """Characters of the answer that `emit` has heard."""
    passed: int = 0
    """How many rows that came later joined before it, as there was room for them only."""
    was_tried: bool = False
    """Whether it ran alone for a while after a batch with it had failed, and was not at fault."""
    requests: Sequence[RequestName] = field(default_factory=requests_at_hand)
    """What log lines call it: what the thread that submitted it had at hand."""


class GenerationLoop(ABC):
    """Answers the rows of one model in a separate thread.

    `submit` and `close` may be called from any thread. The thread starts with the first request and ends with
    `close`. A subclass does the work; its methods run in that thread alone, under `torch.inference_mode`.
    """

    def __init__(self, name: str, result_of: ResultOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._result_of = result_of
        self._waiting: list[Ticket] = []
        """In the order of their turns; guarded by `_changed`."""
        self._turns = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._alive_at = time.monotonic()

    def submit(
        self,
        row: Row,
        emit: Emit | None = None,
        beams: Mapping[str, Any] | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Return the future of the row's answer; cancelling it frees the row's place.

        Raises:
            Cancelled: permanent; the model is being unloaded.
            InferenceError: whatever `_check` raises of that tree.
        """
        self._check(row)
        turn = (urgency, next(self._turns))
        ticket = Ticket(row, Future(), self._clock(), turn, emit, beams or {})
        with self._changed:
            if self._closed:
                raise Cancelled(f"model {self._name} is being unloaded; send the request again")
            self._queue(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"generate {self._name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket.future

    def last_sign(self) -> float:
        """Return when the loop last ended a step, or noticed a cancel, by time.monotonic."""
        return self._alive_at

    def close(self) -> None:
        """End the thread; requests that still wait are Cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _check(self, row: Row) -> None:
        """Raise for a row that this loop can never run."""

    @abstractmethod
    def _work(self) -> None:
        """Do one round of work; called as long as `_has_work`. What it raises goes to `_failed`."""

    @abstractmethod
    def _failed(self, error: BaseException) -> None:
        """Settle or put back every ticket taken off the queue; never raises."""

    def _ended(self) -> None:
        """Release what the subclass holds; the last call in the loop's thread."""

    @abstractmethod
    def _under_way(self) -> list[Ticket]:
        """Return the tickets taken off the queue and not yet settled."""

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                ran_out = False
                try:
                    with running():
                        self._work()
                except BaseException as error:  # noqa: BLE001 - the subclass says what becomes of it
                    self._settle_failure(error)
                    ran_out = is_out_of_memory(error)
                if ran_out:  # only here, where the error no longer holds what it broke off
                    free_memory()
            self._ended()
        with self._changed:
            left = [*self._under_way(), *self._waiting]
            self._waiting.clear()
        for ticket in left:
            self.settle(ticket, Cancelled(f"model {self._name} was unloaded; send the request again"))

    def _settle_failure(self, error: BaseException) -> None:
        try:
            self._failed(error)
        except BaseException as worse:  # a fault of the loop, which must leave nobody waiting
            log.exception("failure_not_settled", model=self._name)
            with self._changed:
                left = [*self._under_way(), *self._waiting]
                self._waiting.clear()
            for ticket in left:
                self.settle(ticket, as_run_error(worse, self._name))

    def _wait_for_work(self) -> bool:
        """Return once there is something to do; False when the loop is closed."""
        with self._changed:
            self._alive_at = time.monotonic()
            self._changed.wait_for(lambda: self._closed or self._waiting or self._under_way())
            return not self._closed

    def _put_back(self, tickets: Iterable[Ticket]) -> None:
        """Put tickets back in the queue, where they were."""
        with self._changed:
            for ticket in tickets:
                self._queue(ticket)

    def _queue(self, ticket: Ticket) -> None:
        bisect.insort(self._waiting, ticket, key=lambda one: one.turn)

    def _note_failure(self, tickets: Sequence[Ticket], error: BaseException) -> None:
        """Log that a round of work for these rows broke off."""
        with working_on([one for ticket in tickets for one in ticket.requests]):
            log.warning("generation_failed", model=self._name, rows=len(tickets), error=repr(error))

    def tell(self, ticket: Ticket) -> None:
        """Give the caller what its answer has grown by."""
        self._alive_at = time.monotonic()
        if ticket.emit is None:
            return
        row = ticket.row
        text = row.settled_text() if row.finish_reason is None else row.text()
        if len(text) <= ticket.told:
            return
        piece, ticket.told = text[ticket.told :], len(text)
        with working_on(ticket.requests):
            try:
                ticket.emit(piece)
            except BaseException:
                # The listener failed, not the request.
                log.exception("emit_failed", model=self._name)
                ticket.emit = None

    def follow(self, tickets: Iterable[Ticket]) -> None:
        """Tell callers of new text, give those whose rows are done their answers, and end rows nobody waits for."""
        self._alive_at = time.monotonic()
        for ticket in tickets:
            if ticket.future.cancelled():
                ticket.row.give_up()
            elif ticket.row.finish_reason is not None:
                self.settle(ticket)
            else:
                self.tell(ticket)

    def settle(self, ticket: Ticket, failure: InferenceError | None = None) -> None:
        """Give the caller its answer, or why there is none."""
        if ticket.future.done():
            return
        answer: dict[str, Any] = {}
        if failure is None:
            try:
                self.tell(ticket)
                answer = self._result_of(ticket.row)
            except BaseException as error:
                # Such as a token that the tokenizer cannot spell: no fault of the rows beside it.
                with working_on(ticket.requests):
                    log.exception("answer_not_made", model=self._name)
                failure = as_run_error(error, self._name)
        if ticket.future.set_running_or_notify_cancel():
            if failure is None:
                ticket.future.set_result(answer)
            else:
                ticket.future.set_exception(failure)
