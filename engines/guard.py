"""Calls code that may never return, and abandons it when it is silent for too long."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from engines.deadlines import Patience, expired
from engines.guarded_call import BETWEEN, Call, Stage, present_call
from engines.lease import Lease, nothing
from engines.periodic_task import PeriodicTask
from handlers.errors import Cancelled, EngineUnavailable, InferenceTimeout
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


@dataclass(slots=True, eq=False)
class Awaited:
    """A started request, whose answer is awaited."""

    of: Hashable
    """The model: its answers are given up together, as one loop runs them all."""
    limit_s: float
    alive_at: Callable[[], float]
    """Returns the time of its last sign of life."""
    give_up: Callable[[InferenceTimeout], None]
    outlives_cancel: bool = False
    """Whether callers who cancel must not hide a loop that is stuck."""
    since: float = field(default_factory=time.monotonic)
    left_at: float = math.inf
    """When its caller left; the next sign of life clears it."""


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
        self._calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._stuck: dict[object, str] = {}
        self.timeouts = 0
        """How many calls were given up so far, also those that returned later."""
        self._answers: set[Awaited] = set()
        self._looking = PeriodicTask(self._look, "silence of engines")
        self._pause_s = _IDLE_S
        self._signs: dict[Hashable, float] = {}
        self._is_closed = False

    @property
    def stuck(self) -> list[str]:
        """The tasks and models of calls that were given up and have not returned."""
        return sorted(set(self._stuck.values()))

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
        """End the idle threads; further calls still work."""
        with self._lock:
            self._is_closed = True
            for _ in range(self._idle):
                self._calls.put(None)
            self._idle = 0
        self._looking.close()

    def sign(self, of: Hashable) -> None:
        """Note a sign of life of `of`, an engine or a model."""
        now = self._signs[of] = time.monotonic()
        if len(self._signs) > _MOST_SIGNS:
            # One as old as the longest patience says no more than none, and models come and go.
            old = now - max([self.patience.default_s, *self.patience.own_s.values()])
            for one, at in list(self._signs.items()):
                if at < old:
                    self._signs.pop(one, None)

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
        given_up: Callable[[], None] = nothing,
        is_stage: bool = False,
    ) -> T:
        """Run `call` in another thread with the caller's context; return what it returns and raise what it raises.

        If the caller does not wait for its end, as it takes too long or is interrupted, `holding` is released in the
        call's thread when the call ends. `alive_at` returns the time of the last sign of life. `given_up` is called
        before GivenUp is raised. `is_stage`: where this thread is that of `call_in_stages`, run `call` here; it keeps
        what it holds, and GivenUp is raised there.

        Raises:
            GivenUp: retryable; it was silent for `limit_s`.
            Cancelled: retryable; the caller of `call_in_stages` does not wait any more.
        """
        stage = Stage(what, limit_s, alive_at, given_up)
        if is_stage and (present := present_call()) is not None and present.stage is BETWEEN:
            if present.left is not None:
                raise Cancelled(f"the caller of {what} has gone; send the request again")
            present.stage = stage
            try:
                return call()
            finally:
                present.stage = BETWEEN
        return self._result(Call(call, stage), limit_s, holding)

    def call_in_stages(self, limit_s: float, call: Callable[[], T], *, ends: float = math.inf) -> T:
        """Run `call`, which runs its stages by `call`, in another thread; between stages it may be silent.

        `limit_s` is the shortest limit of its stages. When its caller has gone, no other stage begins.

        Raises:
            GivenUp: retryable; a stage was silent for too long.
            DeadlineExceeded: permanent; it is later than `ends`, in seconds since the epoch.
        """
        return self._result(Call(call), limit_s, None, ends)

    def _result(self, call: Call[T], limit_s: float, holding: Lease | None, ends: float = math.inf) -> T:
        call.ended.acquire()
        try:
            self._start(call)
            error = self._watch(call, min(limit_s, _WAKE_S), holding, ends)
        except BaseException:
            self._leave(call, holding)
            raise
        if error is None:
            error, call.error = call.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else it and these frames refer to each other
        return call.result  # type: ignore[return-value]

    def _watch(
        self, call: Call[Any], pause_s: float, holding: Lease | None, ends: float = math.inf
    ) -> BaseException | None:
        """Wait for the end of a call; leave it, and return why, where there is no point in waiting."""
        left_s = pause_s
        while not call.ended.acquire(timeout=min(left_s, pause_s, max(0.0, ends - time.time()))):
            if time.time() >= ends:
                self._leave(call, holding)
                # Where it hangs, its model has to be loaded again for other calls.
                late = partial(call.context.copy().run, self._watch, call, pause_s, None)
                threading.Thread(target=late, name=f"late {call.stage.what}", daemon=True).start()
                return expired()
            stage = call.stage
            left_s = stage.left_s(call.waited_at)
            if left_s <= 0:
                call.is_given_up = True
                stage.given_up()
                error = self._given_up(call, stage.what, stage.limit_s)
                self._leave(call, holding)
                return error
        return None

    def when_left(self, then: Callable[[], object]) -> None:
        """Call `then`, maybe twice, as soon as the caller of the guarded call of this thread has gone."""
        if (present := present_call()) is not None:
            present.when_left = then
            if present.left is not None:
                then()

    def follow(self, answer: Future[Any], one: Awaited) -> None:
        """Call `give_up` in a thread of this object when there is no sign of life for too long; ends with `answer`.

        The model counts as stuck until `recovered`.
        """
        with self._lock:
            self._answers.add(one)
            is_sooner = min(one.limit_s / 4, _LOOK_S) < self._pause_s
        self._looking.start()
        if is_sooner:
            self._looking.wake()

        def ended(_: object) -> None:
            with self._lock:
                if one.outlives_cancel and answer.cancelled() and one in self._answers:
                    one.left_at = time.monotonic()
                else:
                    self._answers.discard(one)

        answer.add_done_callback(ended)

    def _look(self) -> float:
        """Give up the answers of silent models; return the seconds until the next check."""
        with self._lock:
            now = time.monotonic()
            self._answers -= {one for one in self._answers if one.alive_at() > one.left_at}
            silent = {one.of for one in self._answers if max(one.since, one.alive_at()) + one.limit_s <= now}
            given_up = [one for one in self._answers if one.of in silent]
            self._answers.difference_update(given_up)
            self._pause_s = min((min(one.limit_s / 4, _LOOK_S) for one in self._answers), default=_IDLE_S)
        for one in given_up:
            _safely(partial(one.give_up, self._given_up(one.of, str(one.of), one.limit_s)))
        return self._pause_s

    def _start(self, call: Call[Any]) -> None:
        with self._lock:
            has_thread = self._idle > 0
            self._idle -= has_thread
        if has_thread:
            self._calls.put(call)
            return
        try:
            threading.Thread(target=self._work, args=([call],), daemon=True).start()
        except (RuntimeError, MemoryError):
            call.has_ended = True  # before it began
            raise

    def _work(self, first: list[Call[Any]]) -> None:
        call: Call[Any] | None = first.pop()  # else the thread would keep it in memory
        while call is not None:
            call.run()
            with self._lock:
                left = call.left
                call.has_ended = True
                call.ended.release()
                self._stuck.pop(call, None)
                if left is None and self._is_closed:
                    return
                self._idle += left is None
            if left is not None:
                _safely(left)
                with self._lock:
                    self._idle += 1
            del left
            call = None
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

    def _leave(self, call: Call[Any], holding: Lease | None) -> None:
        """Release `holding` when a call ends whose caller does not wait any more."""
        left = nothing if holding is None else holding.hand_over()
        with self._lock:
            has_ended = call.has_ended
            if has_ended:
                self._stuck.pop(call, None)
            else:
                call.left = call.left or left
        _safely(left if has_ended else call.when_left)

    def _given_up(self, call: object, what: str, limit_s: float) -> GivenUp:
        with self._lock:
            self._stuck[call] = what
            self.timeouts += 1
            stuck = list(self._stuck.values())
        log.error("call_stuck", what=what, seconds=limit_s, stuck=len(stuck), most_stuck=self._most_stuck)
        if len(stuck) > self._most_stuck and self._too_many is not None:
            too_many, self._too_many = self._too_many, None
            too_many(TooManyStuck(str(_exhausted(stuck))))
        return GivenUp(
            f"{what} did not respond for {limit_s:g} s (worker.infer_timeout_s); send the request again, or raise "
            "the setting where it takes that long"
        )


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
    try:
        end()
    except BaseException:
        log.exception("stuck_call_not_ended")
