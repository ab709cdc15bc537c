"""Ctrl-C at any moment: also while an event loop is being made, which must not stop halfway."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def run(
    main: Coroutine[Any, Any, T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """Return what `main` returns, as `asyncio.run` does, on a loop of `loop_factory`; None: of asyncio's own.

    There a Ctrl-C that comes while the loop is made leaves half of one, whose end then complains of all that it
    never had. Here it waits until the loop is whole.

    Raises:
        KeyboardInterrupt: Ctrl-C came; `main` was cancelled, or never started.
    """
    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        with _held():
            runner.get_loop()
        return runner.run(main)
    finally:
        runner.close()
        main.close()  # where it never started


@contextmanager
def _held() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the body; elsewhere than in the main thread none ever comes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
