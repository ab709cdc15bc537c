"""Shares one call per key among all who ask for it at the same time, in a separate thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Shares the result of a call with all who ask for its key while it is under way; one that hangs occupies a daemon
    thread and blocks only them. Thread-safe."""

    def __init__(self, name: str) -> None:
        """`name` is the prefix of the threads' names; the key follows."""
        self._name = name
        self._lock = threading.Lock()
        self._flights: dict[K, Future[T]] = {}

    def start(self, key: K, call: Callable[[], T]) -> Future[T]:
        """Return the future of the call under way for `key`; if there is none, start `call`.

        Raises:
            RuntimeError: no thread could be started; the next caller tries again.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = Future()
                name = f"{self._name}-{key}"
                threading.Thread(target=self._run, args=(key, call, flight), name=name, daemon=True).start()
                self._flights[key] = flight
            return flight

    def _run(self, key: K, call: Callable[[], T], flight: Future[T]) -> None:
        try:
            settle = partial(flight.set_result, call())
        except BaseException as error:  # noqa: BLE001 - it goes to all who wait
            settle = partial(flight.set_exception, error)
        with self._lock:
            del self._flights[key]
        settle()
