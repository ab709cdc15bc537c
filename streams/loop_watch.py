"""Ends a process whose event loop stands still: it would keep its partitions and answer nothing."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from handlers.logger import get_logger
from streams.shutdown import EXIT_FAILED, exit_now

log = get_logger(__name__)

GRACE_S = 10.0
"""How much longer than an engine a loop may stand still; a stage is interrupted before
(`streams.pipeline.slow_stages`)."""

_MOST_BETWEEN_S = 15.0
_STDERR = 2
_NO_THREAD_RUNS_S = 60.0
"""How much later the process ends where not even this thread runs, as C code holds the interpreter's lock."""


@contextmanager
def watched_loop(limit_s: float, *, end: Callable[[int], object] = exit_now) -> Iterator[None]:
    """End the process with EXIT_FAILED where the running loop stands still for `limit_s` during the block.

    Short stages of handlers run on it, and one that cannot be interrupted cannot be abandoned there. The unanswered
    requests stay on the broker.
    """
    loop = asyncio.get_running_loop()
    runs_in = threading.get_ident()
    is_over = threading.Event()
    between_s = min(limit_s / 4, _MOST_BETWEEN_S)
    frozen_s = between_s + limit_s + _NO_THREAD_RUNS_S

    def watch() -> None:
        while not is_over.is_set():
            faulthandler.dump_traceback_later(frozen_s, exit=True, file=_STDERR)
            if is_over.wait(between_s):
                break
            turned = threading.Event()
            try:
                loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # the loop is closed
                break
            if not turned.wait(limit_s) and not is_over.is_set():
                frame = sys._current_frames().get(runs_in)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
                log.critical("event_loop_stuck", seconds=limit_s, stack=stack)
                end(EXIT_FAILED)
                break
        faulthandler.cancel_dump_traceback_later()

    threading.Thread(target=watch, name="watch of the loop", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
