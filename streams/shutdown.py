"""How a long-running process ends: drained at the first signal, at once at the second, in any case in the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import NoReturn

import structlog

log = structlog.get_logger(__name__)

EXIT_FAILED = 1
EXIT_INTERRUPTED_TWICE = 130

Stopping = asyncio.Future[BaseException | None]
"""Ends when the process has to stop: with the failure that ends it, or None for a signal."""


def stop_on_signals() -> Stopping:
    """Return a future of the running event loop that the first SIGTERM or SIGINT ends; the second ends all."""
    loop = asyncio.get_running_loop()
    stopping: Stopping = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if stopping.done():
            log.warning("killed_by_second_signal", signal=number.name)
            exit_now(EXIT_INTERRUPTED_TWICE)
        log.info("stopping", signal=number.name)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stopping


def exit_unless_done_within(seconds: float) -> None:
    """End the process after `seconds` even if draining hangs in a thread that nobody can stop."""

    def give_up() -> None:
        log.critical("drain_timed_out", seconds=seconds)
        exit_now(EXIT_FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def exit_now(code: int) -> NoReturn:
    """End the process without any further word of its threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
