"""The gateway as a separate process: the same pipeline without a broker."""

from __future__ import annotations

from collections.abc import Callable

from handlers.logger import get_logger
from streams.faults import tell_of_faults
from streams.http.gateway import start_gateway
from streams.loop_watch import GRACE_S, watched_loop
from streams.pipeline.runtime import open_runtime
from streams.settings import Settings
from streams.shutdown import EXIT_FAILED, Stopping, exit_now, run_to_exit

log = get_logger(__name__)

_MARGIN_S = 10.0
"""How long closing may take after draining, in seconds."""


def run(settings: Settings, *, on_listening: Callable[[str], None] = lambda url: None) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the process's exit code.

    `on_listening` is called with the gateway's address once requests are answered. 0: everything taken was
    answered, or cut off after worker.drain_timeout_s. A second signal ends the process at once.

    Raises:
        ConfigurationError: permanent; the address cannot be listened on.
    """
    return run_to_exit(_run(settings, on_listening))


async def _run(settings: Settings, on_listening: Callable[[str], None]) -> int:
    drain_timeout_s = settings.worker.drain_timeout_s
    patience_s = settings.worker.infer_timeout_s + GRACE_S
    with Stopping(drain_timeout_s + _MARGIN_S) as stopping, watched_loop(patience_s):
        tell_of_faults(stopping.fail)
        async with (
            open_runtime(settings, on_too_many_stuck=stopping.request) as runtime,
            start_gateway(runtime, settings, is_ready=not settings.worker.warm) as gateway,
        ):
            on_listening(gateway.url)
            await stopping.until_requested(runtime.warm(settings.worker.warm))
            gateway.is_ready = True
            failure = await stopping.requested()
            if failure is not None:
                log.critical("serve_failed", error=str(failure), exc_info=failure)
                if stopping.has_failed:
                    exit_now(EXIT_FAILED)
            status = 0 if failure is None else EXIT_FAILED
            log.info("http_draining", in_work=gateway.admission.present)
            try:
                await stopping.until_failed(gateway.drain(drain_timeout_s))
            except Exception as error:
                log.critical("serve_failed", error=str(error), exc_info=error)
                exit_now(EXIT_FAILED)
            stopping.settle(status)
        log.info("http_stopped")
        stopping.closed(status)
    return status
