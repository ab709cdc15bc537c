"""The gateway as a process of its own: no broker, no topics, the same pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from streams.http.gateway import start_gateway
from streams.runtime import open_runtime
from streams.settings import Settings
from streams.shutdown import exit_unless_done_within, stop_on_signals

log = structlog.get_logger(__name__)

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
    stopping = stop_on_signals()
    async with open_runtime(settings) as runtime:
        async with start_gateway(runtime, settings, is_ready=not settings.worker.warm) as gateway:
            on_listening(gateway.url)
            warming: asyncio.Future[Any] = asyncio.ensure_future(runtime.warm(settings.worker.warm))
            first: list[asyncio.Future[Any]] = [warming, stopping]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            gateway.is_ready = True
            await stopping
            exit_unless_done_within(settings.worker.drain_timeout_s + _MARGIN_S)
            log.info("http_draining", in_work=gateway.admission.present)
        await asyncio.gather(warming, return_exceptions=True)
    log.info("http_stopped")
    return 0
