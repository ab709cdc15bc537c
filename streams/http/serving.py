"""The gateway as a process of its own: no broker, no topics, the same pipeline."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable

import structlog

from streams.http.gateway import start_gateway
from streams.runtime import open_runtime
from streams.settings import Settings

log = structlog.get_logger(__name__)

_EXIT_FAILED = 1
_EXIT_INTERRUPTED_TWICE = 130
_MARGIN_S = 10.0
"""What closing may take on top of draining, in seconds."""


def run(settings: Settings, *, on_listening: Callable[[str], None] = lambda url: None) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the process's exit code.

    `on_listening` is called with the gateway's address once requests are answered. 0: everything taken was
    answered, or cut off after worker.drain_timeout_s. A second signal ends the process at once.

    Raises:
        ConfigurationError: permanent; the address cannot be listened on.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, on_listening))


async def _run(settings: Settings, on_listening: Callable[[str], None]) -> int:
    stopping = _stop_on_signals()
    async with open_runtime(settings) as runtime:
        async with start_gateway(runtime, settings, is_ready=not settings.worker.warm) as gateway:
            on_listening(gateway.url)
            warming = asyncio.ensure_future(runtime.warm(settings.worker.warm))
            await asyncio.wait({warming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            gateway.is_ready = True
            await stopping
            _exit_unless_done_within(settings.worker.drain_timeout_s + _MARGIN_S)
            log.info("http_draining", in_work=gateway.admission.present)
        await asyncio.gather(warming, return_exceptions=True)
    log.info("http_stopped")
    return 0


def _stop_on_signals() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if stopping.done():
            log.warning("http_killed_by_second_signal", signal=number.name)
            _exit_now(_EXIT_INTERRUPTED_TWICE)
        log.info("http_stopping", signal=number.name)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stopping


def _exit_unless_done_within(seconds: float) -> None:
    """End the process after `seconds` even if a model runs on in a thread that nobody can stop."""

    def give_up() -> None:
        log.critical("http_stop_timed_out", seconds=seconds)
        _exit_now(_EXIT_FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
