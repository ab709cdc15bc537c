"""The right to use a loaded model until it is released, in any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Lease:
    """The right to use one loaded model, alone or shared, which stays in memory until every holder has called
    `release`; a second call does nothing. Thread-safe."""

    def __init__(self, model: Any, release: Callable[[], None]) -> None:
        self.model = model
        self._release = release
        self._held = threading.Lock()
        self._held.acquire()

    def __enter__(self) -> Any:
        return self.model

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """End this use of the model; never blocks or raises, so it may be called from any thread."""
        self.hand_over()()

    def hand_over(self) -> Callable[[], None]:
        """Return a function that ends this use of the model, for another owner; `release` then does nothing."""
        try:
            self._held.release()
        except RuntimeError:
            return nothing
        return self._release


def nothing() -> None:
    """Do nothing, as for what has ended already."""
