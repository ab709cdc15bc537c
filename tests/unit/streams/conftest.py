"""The command line as tests run it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streams.cli.command_line import app

CommandLine = Callable[..., Result]


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """`command_line("config", "--format", "json")` in an empty folder, with no setting of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("INFERSTREAM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="inferstream", input=input)

    return run
