"""`inferstream serve`: its help, its settings, and how it says that it cannot start."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from streams.http import serving
from streams.settings import Settings
from tests.unit.streams.conftest import CommandLine


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of each run that would have served."""
    runs: list[Settings] = []

    def run(settings: Settings, *, on_listening: Any) -> int:
        runs.append(settings)
        on_listening("http://127.0.0.1:4711")
        return 0

    monkeypatch.setattr(serving, "run", run)
    return runs


def test_the_help_has_examples(command_line: CommandLine) -> None:
    shown = command_line("serve", "--help")
    assert shown.exit_code == 0
    assert "$ inferstream serve --host 0.0.0.0" in shown.output
    assert "curl" in shown.output


def test_it_says_where_it_listens_and_how_to_ask(command_line: CommandLine, served: list[Settings]) -> None:
    shown = command_line("serve", "--port", "0")
    assert shown.exit_code == 0
    assert "Listening on http://127.0.0.1:4711" in shown.stdout
    assert "curl http://127.0.0.1:4711/inference/infer -d" in shown.stdout


def test_options_go_before_settings(command_line: CommandLine, served: list[Settings]) -> None:
    command_line("serve", "--set", "http.port=1", "--set", "http.max_pending=3")
    command_line("serve", "--set", "http.port=1", "--port", "0", "--host", "127.0.0.2")
    first, second = (run.http for run in served)
    assert (first.host, first.port, first.max_pending) == ("127.0.0.1", 1, 3)
    assert (second.host, second.port) == ("127.0.0.2", 0)


def test_an_empty_host_does_not_open_every_address(command_line: CommandLine, served: list[Settings]) -> None:
    shown = command_line("serve", "--port", "0", "--host", "")
    assert shown.exit_code == 2
    assert "http.host=''" in shown.stderr
    assert served == []


def test_a_port_that_is_taken_is_told_in_plain_words(command_line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shown = command_line("serve", "--port", str(taken.getsockname()[1]))
    assert shown.exit_code == 2
    assert "cannot listen on 127.0.0.1" in shown.stderr
    assert "Traceback" not in shown.output
