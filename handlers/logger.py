"""The loggers of this library: they write to `logging`, whatever the host configures for structlog."""

from __future__ import annotations

import logging
from typing import Any

from structlog.stdlib import BoundLogger, filter_by_level
from structlog.typing import EventDict, Processor, WrappedLogger


def _as_text(_logger: WrappedLogger, _method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """Return a line of plain text; `logging` itself adds a stack trace, without the values of variables."""
    about = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    values = (f"{name}={value}" for name, value in event.items() if name != "event")
    return (" ".join((event["event"], *values)),), about


PROCESSORS: list[Processor] = [filter_by_level, _as_text]
"""The processors of each line in this process; `streams.logs.configure_logging` sets others for workers."""


def get_logger(name: str) -> BoundLogger:
    """Return the logger of that name; it takes events with values: `log.info("model_loaded", model="m/1")`."""
    return BoundLogger(logging.getLogger(name), PROCESSORS, {})
