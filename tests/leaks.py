"""Fails a test that leaves something behind: an error in the log, a task, a thread, or a patched library.

Errors that a test is about are expected: those of a test that reads the log (`caplog`, `capsys`, `capfd`,
`structlog.testing.capture_logs`), and the events that `@pytest.mark.logs_errors("request_failed", ...)` names. Unit
tests are checked; those of contracts and with servers provoke errors of all kinds at once.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from structlog.typing import EventDict, WrappedLogger

PATIENCE_S = 10.0
"""How long a thread that has been told to end may take."""

_UNIT_TESTS = Path(__file__).with_name("unit")

PATCHED_FOR_GOOD = {
    # Each load of a model replaces it for a while; under `engines.transformers.process_state` that is apart from runs.
    "transformers.modeling_utils.local_torch_dtype",
}
STOPPED_BY_SIGNALS = {"test_a_signal_that_raises_at_once_lets_it_end_as_well"}
"""Tests in which a signal ends a loop in the middle of a task: asyncio cancels it, as it should."""

_READS_THE_LOG = {"caplog", "capsys", "capfd"}
_PATCHED_LIBRARIES = ("aiokafka", "transformers", "torch")

_errors: list[str] = []
_tasks: list[str] = []
_threads_before: set[threading.Thread] = set()
_threads_of_fixtures: set[threading.Thread] = set()
_functions: dict[str, dict[str, Any]] = {}
"""The functions and classes of each module of `_PATCHED_LIBRARIES` that has been seen."""


def note_errors(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor of structlog: keep the lines that are errors."""
    if method in ("error", "critical", "exception"):
        _errors.append(str(event.get("event")))
    return event


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], ConnectionResetError):
            return  # a server of a test whose client has gone, as it may at any moment
        _errors.append(f"{record.name}: {record.getMessage()}")


_handler = _Handler(logging.ERROR)


def pytest_configure() -> None:
    """Note what is still to be done where asyncio cancels it: when the loop of a test ends."""
    cancel_all = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def noted(loop: asyncio.AbstractEventLoop) -> None:
        # Asyncio closes generators that were collected unfinished, such as those of a library whose caller has left.
        closing = "async_generator_athrow"
        _tasks.extend(str(one) for one in asyncio.all_tasks(loop) if type(one.get_coro()).__name__ != closing)
        cancel_all(loop)

    asyncio.runners._cancel_all_tasks = noted  # type: ignore[attr-defined]


def pytest_collection_finish() -> None:
    """Take what the tests have imported as it is now."""
    _patched()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """Leave the threads of fixtures to them that more than one test has."""
    before = set(threading.enumerate())
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            _threads_of_fixtures.update(set(threading.enumerate()) - before)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    _errors.clear()
    _tasks.clear()
    _threads_before.clear()
    _threads_before.update(threading.enumerate())
    if _handler not in logging.getLogger().handlers:
        logging.getLogger().addHandler(_handler)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    result = yield
    if not item.path.is_relative_to(_UNIT_TESTS):
        return result
    left = [*_unexpected_errors(item), *_threads()]
    if item.originalname not in STOPPED_BY_SIGNALS:
        left += [f"a task: {task}" for task in _tasks]
    if nextitem is None or nextitem.path != item.path:
        left += _patched()
    if left:
        pytest.fail("\n".join(["this test leaves behind:", *left]), pytrace=False)
    return result


def _unexpected_errors(item: pytest.Function) -> Iterator[str]:
    if _READS_THE_LOG & set(item.fixturenames):
        return
    expected = tuple(name for mark in item.iter_markers("logs_errors") for name in mark.args)
    for error in _errors:
        if not error.startswith(expected):
            yield f"an error in the log: {error}"


def _threads() -> Iterator[str]:
    deadline = time.monotonic() + PATIENCE_S
    for thread in set(threading.enumerate()) - _threads_before - _threads_of_fixtures:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                yield f"a thread: {thread}"


def _patched() -> list[str]:
    """Return each function of a library that is another one than when it was seen last."""
    found: list[str] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PATCHED_LIBRARIES and isinstance(module, ModuleType):
            now = vars(module)
            known = _functions.get(name)
            if known is None:
                _functions[name] = {key: value for key, value in now.items() if _is_function(key, value)}
                continue
            for key, value in known.items():
                if now.get(key, value) is not value and f"{name}.{key}" not in PATCHED_FOR_GOOD:
                    found.append(f"{name}.{key} patched: {now[key]}")
                    known[key] = now[key]
    return found


def _is_function(name: str, value: object) -> bool:
    """Tell a function or class; what a module does when it is asked for a name may come after its import."""
    return callable(value) and not name.startswith("__")
