"""The base of all loops that generate text: a thread, a queue, and the futures of callers."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from engines.base import NO_HURRY, Emit, Urgency, begin_later
from engines.exit_status import native_threads
from engines.log_context import working_on
from engines.transformers.device import as_run_error, free_memory
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.process_state import running
from handlers.errors import Cancelled, InferenceError, is_out_of_memory
from handlers.logger import get_logger

log = get_logger(__name__)

ResultOf = Callable[[TokenSequence], dict[str, Any]]


class GenerationLoop(ABC):
    """Answers the sequences of one model in a separate thread. `submit` and `close` may be called from any thread.
    The thread starts with the first request and ends with `close`. A subclass does the work; its methods run in that
    thread alone, under `torch.inference_mode`."""

    def __init__(self, name: str, result_of: ResultOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._result_of = result_of
        self._waiting: list[TokenSequence] = []
        """Ordered by sort key; guarded by `_changed`."""
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.last_sign = time.monotonic()
        """When the loop last ended a step, or noticed a cancel."""

    def submit(
        self, sequence: TokenSequence, emit: Emit | None = None, urgency: Urgency = NO_HURRY
    ) -> Future[dict[str, Any]]:
        """Return the future of the sequence's answer; cancelling it frees its place.

        Raises:
            Cancelled: permanent; the model is being unloaded.
        """
        sequence.emit, sequence.since = emit, self._clock()
        sequence.on_begin = begin_later()
        sequence.sort_key = urgency, next(self._numbers)
        with self._changed:
            if self._closed:
                raise Cancelled(f"model {self._name} is being unloaded; send the request again")
            self._queue(sequence)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"generate {self._name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        return sequence.future

    def close(self) -> None:
        """End the thread; requests that still wait are Cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @abstractmethod
    def _work(self) -> None:
        """Do one round of work; called as long as `_has_work`. Its exceptions go to `_failed`."""

    @abstractmethod
    def _failed(self, error: BaseException) -> None:
        """Settle or put back every sequence taken off the queue; never raises."""

    @abstractmethod
    def _under_way(self) -> list[TokenSequence]:
        """Return the sequences taken off the queue and not yet settled."""

    def _run(self) -> None:
        me = threading.get_ident()
        with torch.inference_mode():
            while self._wait_for_work():
                ran_out = False
                native_threads.add(me)
                try:
                    with running():
                        self._work()
                except BaseException as error:  # noqa: BLE001 - the subclass handles it
                    ran_out = is_out_of_memory(error)
                    try:
                        self._failed(error)
                    except BaseException as worse:  # a bug of the loop, which must not leave callers waiting
                        log.exception("failure_not_settled", model=self._name)
                        self._end_all(as_run_error(worse, self._name))
                if ran_out:  # only here, where the error no longer refers to the failed run
                    free_memory()
                native_threads.discard(me)
        self._end_all(Cancelled(f"model {self._name} was unloaded; send the request again"))

    def _end_all(self, failure: InferenceError) -> None:
        with self._changed:
            left = [*self._under_way(), *self._waiting]
            self._waiting.clear()
        for sequence in left:
            self.settle(sequence, failure)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self.last_sign = time.monotonic()
            self._changed.wait_for(lambda: self._closed or self._waiting or self._under_way())
            return not self._closed

    def _put_back(self, sequences: Iterable[TokenSequence]) -> None:
        with self._changed:
            for sequence in sequences:
                self._queue(sequence)

    def _queue(self, sequence: TokenSequence) -> None:
        bisect.insort(self._waiting, sequence, key=lambda one: one.sort_key)

    def _note_failure(self, sequences: Sequence[TokenSequence], error: BaseException) -> None:
        with working_on([one for sequence in sequences for one in sequence.requests]):
            log.warning("generation_failed", model=self._name, rows=len(sequences), error=repr(error))

    def tell(self, sequence: TokenSequence) -> None:
        """Call `emit` with the new text of a sequence."""
        self.last_sign = time.monotonic()
        if sequence.emit is None:
            return
        text = sequence.settled_text() if sequence.finish_reason is None else sequence.text()
        if len(text) <= sequence.told:
            return
        piece, sequence.told = text[sequence.told :], len(text)
        with working_on(sequence.requests):
            try:
                sequence.emit(piece)
            except BaseException:
                # The listener failed, not the request.
                log.exception("emit_failed", model=self._name)
                sequence.emit = None

    def follow(self, sequences: Iterable[TokenSequence]) -> None:
        """Emit new text, settle sequences that are done, and end those whose caller has gone."""
        self.last_sign = time.monotonic()
        for sequence in sequences:
            if sequence.future.cancelled():
                sequence.give_up()
            elif sequence.finish_reason is not None:
                self.settle(sequence)
            else:
                self.tell(sequence)

    def settle(self, sequence: TokenSequence, failure: InferenceError | None = None) -> None:
        """Set the caller's answer, or the error."""
        if sequence.future.done():
            return
        answer: dict[str, Any] = {}
        if failure is None:
            try:
                self.tell(sequence)
                answer = self._result_of(sequence)
            except BaseException as error:
                # Such as a token that the tokenizer cannot decode: the other rows are not affected.
                with working_on(sequence.requests):
                    log.exception("answer_not_made", model=self._name)
                failure = as_run_error(error, self._name)
        if sequence.future.set_running_or_notify_cancel():
            if failure is None:
                sequence.future.set_result(answer)
            else:
                sequence.future.set_exception(failure)
