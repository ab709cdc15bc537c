"""Calls code that may never return, and abandons it when it is silent for too long."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from engines.deadlines import Patience, expired
from engines.guarded_call import BETWEEN, Awaited, Call, Stage, present_call, sign_of
from engines.lease import Lease
from engines.log_context import failures_logged
from engines.periodic_task import PeriodicTask
from handlers.errors import EngineUnavailable, InferenceTimeout
from handlers.logger import get_logger

log = get_logger(__name__)

T = TypeVar("T")

_IDLE_S = 60.0
"""How long a thread waits for its next call before it ends."""
_MOST_SIGNS = 1024
"""From how many signs of life on the old ones are forgotten."""
_WAKE_S = 1.0
"""How often a waiting caller wakes up: Python may miss a Ctrl-C that comes just before a wait."""
_LOOK_S = 5.0
"""The longest time between two looks at answers that are awaited."""

DEFAULT_MOST_STUCK = 3


class Guard:
    """Runs code of engines and handlers in threads that can be abandoned; thread-safe.

    A thread cannot be ended from outside. One whose call is silent for too long is abandoned with the call, which
    counts as stuck until it returns after all. The threads are daemons, so they do not keep the process alive.
    `too_many` is called once, when more than `most_stuck` calls are stuck; from then on `check` refuses.
    """

    def __init__(
        self,
        patience: Patience | None = None,
        *,
        most_stuck: int = DEFAULT_MOST_STUCK,
        too_many: Callable[[Exception], None] | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._most_stuck = most_stuck
        self._too_many = too_many
        self.timeouts = 0
        """How many calls were given up so far, also those that returned later."""
        self._signs: dict[Hashable, float] = {}
        self._most_signs = _MOST_SIGNS
        self._is_closed = False
        self._begin()
        _guards.add(self)

    def _begin(self) -> None:
        """Begin without threads and calls; a process that was forked has none of its parent's."""
        self._calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._stuck: dict[object, str] = {}
        self._answers: set[Awaited] = set()
        self._under_way: set[Call[Any]] = set()
        self._looking = PeriodicTask(self._look, "silence of engines")
        self._pause_s = math.inf
        """The time between two looks."""

    @property
    def stuck(self) -> list[str]:
        """The tasks and models of calls that were given up and have not returned, once for each call."""
        return sorted(self._stuck.values())

    def check(self) -> None:
        """Refuse to begin anything that takes memory while too many calls hang.

        Raises:
            EngineUnavailable: retryable, at another worker or after a restart.
        """
        if len(self._stuck) > self._most_stuck:
            raise _exhausted(list(self._stuck.values()))

    def recovered(self, of: Hashable) -> None:
        """Note that `of`, whose answers were given up, has no more work under way."""
        self._stuck.pop(of, None)

    def close(self) -> None:
        """End the idle threads; further calls still work, but are not given up."""
        with self._lock:
            self._is_closed = True
            for _ in range(self._idle):
                self._calls.put(None)
            self._idle = 0
        self._looking.close()

    def sign(self, of: Hashable) -> None:
        """Note a sign of life of `of`, an engine or a model."""
        now = self._signs[of] = time.monotonic()
        if len(self._signs) > self._most_signs:
            # One as old as the longest patience says no more than none, and models come and go.
            old = now - max([self.patience.default_s, *self.patience.own_s.values()])
            for one, at in list(self._signs.items()):
                if at < old:
                    self._signs.pop(one, None)
            self._most_signs = max(_MOST_SIGNS, 2 * len(self._signs))  # else each sign would look through all

    def last_sign(self, of: Hashable) -> float:
        """Return when `of` last gave a sign of life."""
        return self._signs.get(of, 0.0)

    def call(
        self,
        what: str,
        limit_s: float,
        call: Callable[[], T],
        *,
        holding: Lease | None = None,
        alive_at: Callable[[], float] | None = None,
        given_up: Callable[[InferenceTimeout], object] = lambda error: None,
        is_stage: bool = False,
    ) -> T:
        """Run `call` in another thread with the caller's context; return what it returns and raise what it raises.

        If the caller does not wait for its end, as it takes too long or is interrupted, `holding` is released in the
        call's thread when the call ends. `alive_at` returns the time of the last sign of life. `given_up` is called
        with GivenUp before that is raised. `is_stage`: where this thread is that of `call_in_stages` or of a
        GuardedPool, run `call` here; it keeps what it holds, and GivenUp is raised there.

        Raises:
            GivenUp: retryable; it was silent for `limit_s`.
            Cancelled: retryable; the call with this stage is not waited for any more.
        """
        stage = Stage(what, limit_s, alive_at, given_up)
        if not is_stage or (present := present_call()) is None or present.stage is not BETWEEN:
            return self._result(Call(call, stage, holding), limit_s)
        try:
            present.turn_to(stage)
            self._look_within(limit_s)
            return call()
        finally:
            present.turn_to(BETWEEN)

    def call_in_stages(self, call: Callable[[], T], *, ends: float = math.inf) -> T:
        """Run `call`, which runs its stages by `call`, in another thread; between stages it may be silent.

        When its caller has gone, no other stage begins.

        Raises:
            GivenUp: retryable; a stage was silent for too long.
            DeadlineExceeded: permanent; it is later than `ends`, in seconds since the epoch.
        """
        return self._result(Call(call), math.inf, ends)

    def _result(self, call: Call[T], limit_s: float, ends: float = math.inf) -> T:
        future = call.future
        try:
            self.start(call)
            while not future.done():
                with suppress(TimeoutError):
                    future.exception(min(limit_s, _WAKE_S, max(0.0, ends - time.time())))
                    break
                self._look_within(limit_s)  # only now: most calls have ended before
                if time.time() >= ends:
                    raise expired()
        except BaseException:
            with call.deciding:
                then = call.leave()
            _safely(then)
            raise
        try:
            return future.result()
        finally:
            del future  # else an error and this frame refer to each other

    def when_left(self, then: Callable[[], object]) -> None:
        """Call `then`, maybe twice, as soon as the caller of the guarded call of this thread has gone."""
        if (present := present_call()) is not None:
            present.when_left = then
            if present.left is not None:
                then()

    def follow(self, answer: Future[Any], one: Awaited) -> None:
        """Call `give_up` in a thread of this object when there is no sign of life for too long, until `answer` ends;
        the model counts as stuck until `recovered`."""
        with self._lock:
            self._answers.add(one)
        self._look_within(one.limit_s)

        def ended(_: object) -> None:
            with self._lock:
                if one.outlives_cancel and answer.cancelled() and one in self._answers:
                    one.left_at = time.monotonic()
                else:
                    self._answers.discard(one)

        answer.add_done_callback(ended)

    def _look_within(self, limit_s: float) -> None:
        """Look often enough, from now on, for what may be silent for `limit_s`."""
        if (pause_s := min(limit_s / 4, _LOOK_S)) < self._pause_s:
            with suppress(RuntimeError, MemoryError):  # no thread now: the next call tries again
                self._looking.start()
                with self._lock:
                    self._pause_s = min(self._pause_s, pause_s)
                self._looking.wake()

    def _look(self) -> float:
        """Give up silent calls, and the answers of silent models; return the seconds until the next look."""
        now = time.monotonic()
        with self._lock:
            stages = [(call, call.stage) for call in self._under_way]
            answers = list(self._answers)
        for call, stage in stages:
            if stage.left_s(call.waited_at) <= 0:
                call.context.copy().run(self._give_up, call, stage)  # log lines name its requests
        signs = {one: sign_of(one.alive_at) for one in answers}  # without the lock: this is code of engines
        with self._lock:
            self._answers -= {one for one in answers if signs[one] > one.left_at}
            silent = {
                one.of for one in answers if one in self._answers and max(one.since, signs[one]) + one.limit_s <= now
            }
            given_up = [one for one in self._answers if one.of in silent]
            self._answers.difference_update(given_up)
        for one in given_up:
            _safely(partial(one.give_up, self._given_up(one.of, str(one.of), one.limit_s)))
        return min(self._pause_s, _LOOK_S)

    def _give_up(self, call: Call[Any], stage: Stage) -> None:
        with call.deciding:
            if call.has_ended or call.is_given_up or call.stage is not stage:
                return
            call.is_given_up = True
            error = self._given_up(call, stage.what, stage.limit_s)
            _safely(partial(stage.given_up, error))
            then = call.leave()
        _safely(then)
        call.tell(error)

    def start(self, call: Call[Any]) -> None:
        """Run a call in another thread; raises RuntimeError or MemoryError where there is none."""
        with self._lock:
            self._under_way.add(call)
            has_thread = self._idle > 0
            self._idle -= has_thread
        if has_thread:
            self._calls.put(call)
            return
        try:
            threading.Thread(target=self._work, args=([call],), daemon=True).start()
        except (RuntimeError, MemoryError):
            with self._lock:
                call.has_ended = True  # before it began
                self._under_way.discard(call)
            raise

    def _work(self, first: list[Call[Any]]) -> None:
        call: Call[Any] | None = first.pop()  # else the thread would keep it in memory
        while call is not None:
            error = call.run()
            with call.deciding:
                left = call.left
                call.has_ended = True
            if left is not None:
                _safely(left)
            with self._lock:
                self._stuck.pop(call, None)
                self._under_way.discard(call)
                is_last = self._is_closed
                self._idle += not is_last
            if left is None:
                _safely(partial(call.tell, error))
            del left, error
            call = None
            if not is_last:
                call = self._next()

    def _next(self) -> Call[Any] | None:
        """Return the next call, None where this thread has been idle for too long."""
        while True:
            try:
                return self._calls.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle:  # else a call that needs this thread is about to come
                        self._idle -= 1
                        return None

    def _given_up(self, call: object, what: str, limit_s: float) -> GivenUp:
        with self._lock:
            self._stuck[call] = what
            self.timeouts += 1
            stuck = list(self._stuck.values())
        log.error("call_stuck", what=what, seconds=limit_s, stuck=len(stuck), most_stuck=self._most_stuck)
        if len(stuck) > self._most_stuck and self._too_many is not None:
            too_many, self._too_many = self._too_many, None
            _safely(partial(too_many, TooManyStuck(str(_exhausted(stuck)))))
        return GivenUp(
            f"{what} did not respond for {limit_s:g} s (worker.infer_timeout_s); send the request again, or raise "
            "the setting where it takes that long"
        )


_guards: WeakSet[Guard] = WeakSet()


def _forked() -> None:
    for guard in _guards:
        guard._begin()


os.register_at_fork(after_in_child=_forked)


class GivenUp(InferenceTimeout):
    """Raised in place of the result of an abandoned call."""


class TooManyStuck(Exception):
    """Raised when more calls hang in this process than it may abandon."""


def _exhausted(stuck: list[str]) -> EngineUnavailable:
    return EngineUnavailable(
        f"too many calls hang in this process ({len(stuck)}: {', '.join(sorted(set(stuck)))}), so it loads no more; "
        "start it again, or send the request to another worker"
    )


def _safely(end: Callable[[], object]) -> None:
    with failures_logged(log, "stuck_call_not_ended"):
        end()
