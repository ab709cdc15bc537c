"""Logging: one format for our lines and the libraries', with the current request in each line, and no secrets."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Mapping
from typing import TextIO

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from engines.config.setting_problems import MASK, mask_password_in_url
from engines.log_context import requests_at_hand
from handlers.logger import PROCESSORS
from streams.repeated_lines import RepeatedLines
from streams.settings import LoggingSettings

SECRET_KEYS = frozenset(
    {
        "access_key",
        "api_key",
        "authorization",
        "credentials",
        "password",
        "sasl_password",
        "secret",
        "secret_key",
        "session_token",
        "token",
    }
)
"""Names whose values are masked in log lines; every secret setting is among them."""

QUIET_LIBRARIES = {"urllib3": logging.ERROR} | dict.fromkeys(
    ("aiokafka", "boto3", "botocore", "faust", "httpcore", "httpx", "mode", "s3transfer"), logging.WARNING
)
"""Libraries and their least level. They log each request or retry, which our lines do better; aiokafka's DEBUG calls
alone cost a worker 12 % of its speed."""

_MOST_IDS = 10
"""How many requests of a batch a line names."""


def configure_logging(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (standard error by default); the last call counts.

    Console format where a person watches, JSON lines elsewhere, unless `settings.format` says.
    """
    stream = stream or sys.stderr
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_request,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    PROCESSORS[:] = [
        structlog.stdlib.filter_by_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        *shared,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ]
    structlog.configure(  # for plugins that log by structlog themselves
        processors=PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatedLines())
    atexit.register(tell_left_out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                *_renderers(as_json, colours=stream.isatty()),
            ],
        )
    )
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    for name, level in QUIET_LIBRARIES.items():
        logging.getLogger(name).setLevel(max(level, root.level))


def tell_left_out() -> None:
    """Log how many lines of libraries were left out as repetitions since the last such line."""
    for handler in logging.getLogger().handlers:
        for one in handler.filters:
            if isinstance(one, RepeatedLines):
                one.flush(handler)


def add_request(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the current requests to a line, unless the line names one itself."""
    requests = requests_at_hand()
    if not requests:
        return event
    if "request_id" not in event:
        if len(requests) == 1:
            event["request_id"] = requests[0].id
            if requests[0].traceparent:
                event["traceparent"] = requests[0].traceparent
        else:
            event["request_ids"] = [one.id for one in requests[:_MOST_IDS]]
            event["requests"] = len(requests)
    event.setdefault("task", requests[0].task)  # they are equal for all requests of a batch
    event.setdefault("model", requests[0].model_name)
    return event


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask SecretStr values, values under SECRET_KEYS and passwords in addresses, at any depth."""
    return {key: _masked(key, value) for key, value in event.items()}


def _masked(key: object, value: object) -> object:
    if isinstance(value, SecretStr) or (value is not None and str(key).lower() in SECRET_KEYS):
        return MASK
    if isinstance(value, str):
        return mask_password_in_url(value) if "://" in value else value
    if isinstance(value, Mapping):
        return {name: _masked(name, inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(None, inner) for inner in value]
    return value


def _renderers(as_json: bool, *, colours: bool) -> list[Processor]:
    # A stack trace is rendered without the values of local variables: those hold secrets and requests' data.
    if as_json:
        return [
            structlog.processors.format_exc_info,
            mask_secrets,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ]
    plain = structlog.dev.plain_traceback
    return [mask_secrets, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
