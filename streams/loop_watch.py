"""Ends a process whose event loop does not turn any more: it would keep its partitions and answer nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from streams.shutdown import EXIT_FAILED, exit_now

log = structlog.get_logger(__name__)

_MOST_BETWEEN_S = 15.0


@contextmanager
def watched_loop(limit_s: float, *, end: Callable[[int], object] = exit_now) -> Iterator[None]:
    """End the process with EXIT_FAILED where the running loop does not turn for `limit_s` during the block.

    Short stages of handlers run on it, and one that never returns cannot be left behind there. The unanswered
    requests stay on the broker.
    """
    loop = asyncio.get_running_loop()
    runs_in = threading.get_ident()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(min(limit_s / 4, _MOST_BETWEEN_S)):
            turned = threading.Event()
            try:
                loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # the loop is closed
                return
            if not turned.wait(limit_s) and not is_over.is_set():
                frame = sys._current_frames().get(runs_in)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
                log.critical("event_loop_stuck", seconds=limit_s, stack=stack)
                end(EXIT_FAILED)
                return

    threading.Thread(target=watch, name="watch of the loop", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
