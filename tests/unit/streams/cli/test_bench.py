"""`inferstream bench` passes the command line on to the checkout's benchmarks, where there are some."""

from __future__ import annotations

from typing import Any

import pytest

import examples.bench.__main__ as suite
from streams.cli import bench
from tests.unit.streams.conftest import CommandLine


def test_arguments_reach_the_benchmarks_and_their_status_is_the_commands(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        given.append(arguments)
        return 1

    monkeypatch.setattr(suite, "main", main)
    shown = command_line("bench", "cache", "memory", "--quick", "--strict", "--rounds", "2")
    assert shown.exit_code == 1
    directory = ["--directory", ".local/bench"]
    assert given == [["cache", "memory", "--quick", "--strict", "--rounds", "2", *directory]]
    command_line("bench", "stream-share", "--kafka-home", "/opt/kafka")
    assert given[1] == ["stream-share", "--kafka-home", "/opt/kafka", *directory]


@pytest.mark.parametrize("is_package_there", [True, False])
def test_without_a_checkout_it_says_where_the_benchmarks_are(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, is_package_there: bool
) -> None:
    def find_spec(name: str) -> Any:
        if name == "examples":
            return is_package_there or None
        assert is_package_there, "else importlib raises ModuleNotFoundError"
        return None

    monkeypatch.setattr(bench, "find_spec", find_spec)
    shown = command_line("bench")
    assert shown.exit_code == 2
    assert "run them in a checkout of the source" in shown.stderr
