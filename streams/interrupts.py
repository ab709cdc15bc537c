"""Signals before an event loop runs: while modules are imported, and while the loop is made.

Imports little itself, as Ctrl-C shows a stack trace until this is imported.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a process that Ctrl-C ended."""


def run(main: Coroutine[Any, Any, T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Return what `main` returns, as `asyncio.run` does, on a loop of `loop_factory`; None: asyncio's own.

    A Ctrl-C while `asyncio.run` makes its loop leaves half a loop, whose end raises further errors. Here it waits
    until the loop is complete.
    """
    import asyncio

    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        with _held():
            runner.get_loop()
        return runner.run(main)
    finally:
        runner.close()
        main.close()  # where it never started


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Let Ctrl-C end the process with 130, silently, during the block, which only imports.

    There a KeyboardInterrupt would be shown as a stack trace, or be lost. Where Ctrl-C is ignored, as in the
    background, it stays ignored. Works in the main thread only.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ending_at_once(call_on_close: Callable[[Callable[[], object]], object]) -> Iterator[None]:
    """Let SIGTERM end the process with 0 during the block: nothing has begun, so there is nothing to drain.

    This lasts until another handler takes over; `call_on_close` gets a function that restores the signal. A thread
    reads the signal, as an import that hangs in C keeps Python's own handlers from running. Works in the main thread
    only.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def hear() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM:
                os._exit(0)
        os.close(reader)

    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    call_on_close(lambda: signal.signal(signal.SIGTERM, before))
    fd_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=hear, name="watch for SIGTERM", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        os.close(writer)


@contextmanager
def _held() -> Iterator[None]:
    """Delay a Ctrl-C until the end of the body; it comes to the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
