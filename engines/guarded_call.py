"""What the guard watches: a call, the stage it is in, and started requests; and how long each may be silent."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from engines.exit_status import native_threads
from engines.lease import Lease, nothing
from handlers.errors import Cancelled, InferenceTimeout
from handlers.logger import get_logger

log = get_logger(__name__)

T = TypeVar("T")


def sign_of(alive_at: Callable[[], float]) -> float:
    """Return the time of the last sign of life, 0 where that cannot be told: this call is one of many."""
    try:
        return max(0.0, alive_at())
    except BaseException:
        log.exception("last_sign_failed")
        return 0.0


@dataclass(slots=True, eq=False)
class Stage:
    """What a call does now, and how long it may be silent."""

    what: str
    limit_s: float
    alive_at: Callable[[], float] | None = None
    given_up: Callable[[InferenceTimeout], object] = lambda error: None
    since: float = field(default_factory=time.monotonic)

    def left_s(self, waited_at: float) -> float:
        """Return the seconds that it may still be silent."""
        self.since = max(self.since, waited_at, 0.0 if self.alive_at is None else sign_of(self.alive_at))
        return self.since + self.limit_s - time.monotonic()


BETWEEN = Stage("a call", math.inf)
"""The stage of `Guard.call_in_stages` between its stages."""


@dataclass(slots=True, eq=False)
class Call(Generic[T]):
    """One call under way."""

    call: Callable[[], Any]
    stage: Stage = BETWEEN
    holding: Lease | None = None
    """Released at its end where the caller has gone, or was told that it hangs."""
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    thread_name: str = field(default_factory=lambda: threading.current_thread().name)
    deciding: threading.Lock = field(default_factory=threading.Lock)
    """Held to end a stage or the call, or to give it up: never both."""
    future: Future[T] = field(default_factory=Future)
    told: Callable[[], object] = nothing
    """Called after `future` has its end."""
    result: T | None = None
    has_ended: bool = False
    left: Callable[[], None] | None = None
    """Called at its end where its caller has gone, or was told that it hangs; None before."""
    when_left: Callable[[], object] = nothing
    """Called as soon as that is so."""
    waited_at: float = 0.0
    """When it last waited for another call, by time.monotonic."""
    is_given_up: bool = False

    def waits(self) -> None:
        """Note that the call waits for another one that makes progress: its time starts again."""
        self.waited_at = time.monotonic()

    def leave(self) -> Callable[[], object]:
        """Note, with `deciding` held, that it is not waited for any more; return what to do then."""
        if self.left is not None:
            return nothing
        self.left = nothing if self.holding is None else self.holding.hand_over()
        return self.left if self.has_ended else self.when_left

    def turn_to(self, stage: Stage) -> None:
        """Begin a stage, or end one by BETWEEN, in the thread of the call.

        Raises:
            Cancelled: retryable; the call is not waited for any more.
        """
        with self.deciding:
            before, self.stage = self.stage, stage
        if self.left is not None:
            what = (before if stage is BETWEEN else stage).what
            raise Cancelled(f"the caller of {what} has gone; send the request again")

    def run(self) -> BaseException | None:
        """Run it in this thread; return what it raises."""
        threading.current_thread().name = self.thread_name
        call, self.call = self.call, nothing  # the thread may keep this longer than the caller does
        _here.call = self
        native_threads.add(threading.get_ident())
        try:
            self.result = self.context.run(call)
        except BaseException as error:  # noqa: BLE001 - raised where the call is waited for
            return error
        finally:
            native_threads.discard(threading.get_ident())
            _here.call = None
        return None

    def tell(self, error: BaseException | None) -> None:
        """Tell the caller, once, that it ended with `error` or its result, or is given up."""
        future = self.future
        del self.future  # the error refers to the frames of its thread, and these to this call
        if error is None:
            future.set_result(self.result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)
        self.told()


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


_here = threading.local()


def present_call() -> Call[Any] | None:
    """Return the guarded call that this thread runs, None where it runs none."""
    return getattr(_here, "call", None)


def was_left() -> bool:
    """Return whether the guarded call that this thread runs is not waited for any more."""
    return (present := present_call()) is not None and present.left is not None
