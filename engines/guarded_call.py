"""One guarded call: the stage it is in, and how long that may be silent."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from engines.exit_status import native_threads
from engines.lease import nothing

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Stage:
    """What a call does now, and how long it may be silent."""

    what: str
    limit_s: float
    alive_at: Callable[[], float] | None = None
    given_up: Callable[[], None] = nothing
    since: float = field(default_factory=time.monotonic)

    def left_s(self, waited_at: float) -> float:
        """Return the seconds that it may still be silent."""
        self.since = max(self.since, waited_at, self.alive_at() if self.alive_at is not None else 0.0)
        return self.since + self.limit_s - time.monotonic()


BETWEEN = Stage("a call", math.inf)
"""The stage of `Guard.call_in_stages` between its stages."""


@dataclass(slots=True, eq=False)
class Call(Generic[T]):
    """One call under way; `ended` is locked until it has returned."""

    call: Callable[[], Any]
    stage: Stage = BETWEEN
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    thread_name: str = field(default_factory=lambda: threading.current_thread().name)
    ended: threading.Lock = field(default_factory=threading.Lock)
    result: T | None = None
    error: BaseException | None = None
    has_ended: bool = False
    left: Callable[[], None] | None = None
    """Called at its end where the caller has gone; None while the caller waits."""
    when_left: Callable[[], object] = nothing
    """Called as soon as the caller has gone."""
    waited_at: float = 0.0
    """When it last waited for another call, by time.monotonic."""
    is_given_up: bool = False

    def waits(self) -> None:
        """Note that the call waits for another one that makes progress: its time starts again."""
        self.waited_at = time.monotonic()

    def run(self) -> None:
        threading.current_thread().name = self.thread_name
        call, self.call = self.call, nothing  # the thread may keep this longer than the caller does
        _here.call = self
        native_threads.add(threading.get_ident())
        try:
            self.result = self.context.run(call)
        except BaseException as error:  # noqa: BLE001 - raised where the call is waited for
            self.error = error
        finally:
            native_threads.discard(threading.get_ident())
            _here.call = None


_here = threading.local()


def present_call() -> Call[Any] | None:
    """Return the guarded call that this thread runs, None where it runs none."""
    return getattr(_here, "call", None)
