"""`make simulate`: which seeds fail, how to run one again, and a bar only where there is a terminal."""

from __future__ import annotations

import re

import pytest

from tests.simulation import run


def test_a_seed_that_fails_is_printed_with_the_command_that_runs_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "failing", fails_at_seven)
    monkeypatch.setattr(run, "report", lambda seed: f"what goes wrong with {seed}")
    assert run.main(["--runs", "30", "--first", "5"]) == 1
    said = capsys.readouterr()
    assert re.match(r"30 of 30 runs from seed 5 in \d+ s, failed: \[7\]\n", said.out)
    assert "run it again with `make simulate RUNS=1 FIRST=7`\nwhat goes wrong with 7\n" in said.out
    assert said.err == ""  # no bar


def fails_at_seven(seeds: range) -> list[int]:
    return [seed for seed in seeds if seed == 7]


def test_no_runs_at_all_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--runs", "0"])
    assert "--runs is 0; it must be 1 or more" in capsys.readouterr().err
