"""Which requests a thread or task works on, so that its log lines name them; and how many lines are written."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class RequestName(msgspec.Struct, frozen=True, gc=False):
    """What log lines call a request; without its data, which are not to live as long."""

    id: str
    task: str
    model_name: str
    traceparent: str | None = None
    """Of the trace that its caller began, as W3C writes it."""


_at_hand: ContextVar[Sequence[RequestName]] = ContextVar("requests_at_hand", default=())


class _Turn(threading.local):
    """What a thread works on without giving way to anything else: several times cheaper to set than a context."""

    request: RequestName | None = None


turn = _Turn()
"""What sets its request sets None before the thread turns to something else."""


class working_on:
    """Puts these requests into every log line written inside, by this asyncio task or thread.

    Contexts do not follow a request into a batch, or a batch into a thread: code that works for several, or in a thread
    of its own, says so by this.
    """

    __slots__ = ("_before", "_requests")

    def __init__(self, requests: Sequence[RequestName]) -> None:
        self._requests = requests

    def __enter__(self) -> None:
        self._before = _at_hand.set(self._requests)

    def __exit__(self, *_: object) -> None:
        _at_hand.reset(self._before)


def requests_at_hand() -> Sequence[RequestName]:
    """Return the requests that are worked on here and now."""
    request = turn.request
    return _at_hand.get() if request is None else (request,)


@contextlib.contextmanager
def working_on_number(number: int, count: int) -> Iterator[None]:
    """Name in every log line written inside only request `number` of the `count` that are at hand, in their order."""
    at_hand = _at_hand.get()
    with working_on(at_hand[number : number + 1] if len(at_hand) == count else at_hand):
        yield


def shared_task(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Return a task that works for many requests: its lines do not name the one that happened to start it."""
    return asyncio.create_task(work, name=name, context=Context())


class LineLimit:
    """At most `most` lines of a kind in `per_s` seconds; thread-safe. Callers choose few kinds: none is forgotten."""

    def __init__(self, most: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[str, tuple[float, int]] = {}
        """By kind: when its present time began, and the lines since."""
        self._left_out: dict[str, int] = {}

    def allows(self, kind: str) -> bool:
        """Return whether a line of `kind` may be written now; one that may not is counted."""
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
        """Return how many lines of each kind were left out since the last call, without those of none."""
        with self._lock:
            left_out, self._left_out = self._left_out, {}
        return left_out
