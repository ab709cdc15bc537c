"""The command prints where the models are, or why they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.models.__main__ import main


@pytest.mark.weights
def test_it_prints_the_folder_of_each_model(
    whisper_tiny_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "whisper-tiny.en"]) == 0
    assert capsys.readouterr().out == f"{whisper_tiny_path}\n"


def test_an_unknown_name_ends_with_status_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpt-5"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no recipe for model" in captured.err
