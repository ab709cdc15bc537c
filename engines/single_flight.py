"""One asks and the others wait: a call for each key at a time, in a separate thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Shares the answer of a call with all who ask for its key while it is under way; thread-safe.

    A call that hangs keeps its one thread, a daemon, and holds up nobody who does not wait for it.
    """

    def __init__(self, name: str) -> None:
        """`name` is what its threads are called, before the key."""
        self._name = name
        self._lock = threading.Lock()
        self._flights: dict[K, Future[T]] = {}

    def start(self, key: K, call: Callable[[], T]) -> Future[T]:
        """Return the future of what is under way for `key`; where nothing is, of `call`, which begins now.

        Raises:
            RuntimeError: there is no thread for it; the next who asks tries again.
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
            answer = call()
        except BaseException as error:  # noqa: BLE001 - it goes to all who wait
            self._land(key)
            flight.set_exception(error)
        else:
            self._land(key)
            flight.set_result(answer)

    def _land(self, key: K) -> None:
        with self._lock:
            del self._flights[key]
