"""The command line as tests run it, and logging put back as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from handlers.logger import PROCESSORS
from streams.cli import app
from streams.logs import QUIET_LIBRARIES

CommandLine = Callable[..., Result]


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo what `configure_logging` did in the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config, processors = structlog.get_config(), PROCESSORS[:]
    levels = {name: logging.getLogger(name).level for name in QUIET_LIBRARIES}
    yield
    structlog.configure(**config)
    PROCESSORS[:] = processors
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored_logging: None) -> CommandLine:
    """`command_line("config", "--format", "json")` in an empty folder, with no setting of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("INFERSTREAM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="inferstream", input=input)

    return run
