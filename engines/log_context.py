"""Which requests a thread or an asyncio task works on, so that the log lines written meanwhile can name them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Named(Protocol):
    """What names a request in a log line."""

    @property
    def id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def model_name(self) -> str: ...


class RequestName(msgspec.Struct, frozen=True, gc=False):
    """What log lines call a request; without its data, which are not to live as long."""

    id: str
    task: str
    model_name: str


_at_hand: ContextVar[Sequence[Named]] = ContextVar("requests_at_hand", default=())


class _Turn(threading.local):
    """What a thread works on without giving way to anything else: several times cheaper to set than a context."""

    request: Named | None = None


turn = _Turn()
"""Whoever sets its request sets None before the thread turns to something else."""


class working_on:
    """Puts these requests into every log line written inside, by this asyncio task or thread.

    Contexts do not follow a request into a batch, or a batch into a thread: whoever works for several, or in a thread
    of its own, says so by this.
    """

    __slots__ = ("_before", "_requests")

    def __init__(self, requests: Sequence[Named]) -> None:
        self._requests = requests

    def __enter__(self) -> None:
        self._before = _at_hand.set(self._requests)

    def __exit__(self, *_: object) -> None:
        _at_hand.reset(self._before)


def requests_at_hand() -> Sequence[Named]:
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
