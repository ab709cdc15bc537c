"""The requests that a thread or task works on, for its log lines; and limits on log lines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import msgspec
from structlog.stdlib import BoundLogger

from handlers.signals import is_of_a_signal

T = TypeVar("T")


class RequestName(msgspec.Struct, frozen=True, gc=False):
    """What log lines show of a request; holds none of its data, which must not live as long."""

    id: str
    task: str
    model_name: str
    traceparent: str | None = None
    """The caller's W3C trace context."""


_at_hand: ContextVar[Sequence[RequestName]] = ContextVar("requests_at_hand", default=())


class _Turn(threading.local):
    """What a thread works on without interruption: several times cheaper to set than a context variable."""

    request: RequestName | None = None


turn = _Turn()
"""Code that sets its request must set None before the thread turns to something else."""


class working_on:
    """Names these requests in every log line written inside, by this asyncio task or thread; for code that works for
    several requests or in another thread, where a context does not follow them."""

    __slots__ = ("_before", "_requests")

    def __init__(self, requests: Sequence[RequestName]) -> None:
        self._requests = requests

    def __enter__(self) -> None:
        self._before = _at_hand.set(self._requests)

    def __exit__(self, *_: object) -> None:
        _at_hand.reset(self._before)


def requests_at_hand() -> Sequence[RequestName]:
    """Return the requests that this task or thread works on."""
    request = turn.request
    return _at_hand.get() if request is None else (request,)


@contextlib.contextmanager
def working_on_number(number: int, count: int) -> Iterator[None]:
    """Name in log lines written inside only request `number` of the `count` current ones, in their order."""
    at_hand = _at_hand.get()
    with working_on(at_hand[number : number + 1] if len(at_hand) == count else at_hand):
        yield


@contextlib.contextmanager
def failures_logged(log: BoundLogger, event: str, **about: Any) -> Iterator[None]:
    """Log what the body raises as `event`, and go on after it; raise only what a signal to this process raised."""
    try:
        yield
    except BaseException as error:
        if is_of_a_signal(error):
            raise
        log.exception(event, **about)


def shared_task(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Return a task that works for many requests: its log lines do not name the request that started it."""
    return asyncio.create_task(work, name=name, context=Context())


class LineLimit:
    """Allows at most `most` lines of a kind in `per_s` seconds; thread-safe. Kinds are few and never forgotten."""

    def __init__(self, most: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[str, tuple[float, int]] = {}
        """By kind: the start of its current period, and the lines since."""
        self._left_out: dict[str, int] = {}

    def allows(self, kind: str) -> bool:
        """Return whether a line of `kind` may be written now; if not, it is counted."""
        now = self._clock()
        with self._lock:
            began, count = self._written.get(kind, (now, 0))
            if now - began >= self._per_s:
                began, count = now, 0
            self._written[kind] = (began, count + 1)
            if count < self._most:
                return True
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False

    def take_left_out(self) -> dict[str, int]:
        """Return how many lines of each kind were left out since the last call; kinds without any are not in it."""
        with self._lock:
            left_out, self._left_out = self._left_out, {}
        return left_out
