"""The command prints where the models are, or why they cannot be had; the local stack takes parts of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import LocalStack
from deploy.models import prepare
from deploy.models.catalogue import SHA256
from deploy.models.preparation import sha256
from examples.models import SMOLLM2_GGUF
from examples.models.__main__ import main
from examples.models.ollama import Ollama


@pytest.mark.weights
def test_it_prints_the_folder_of_each_model(whisper_tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "whisper-tiny.en"]) == 0
    assert capsys.readouterr().out == f"{whisper_tiny_path}\n"


def test_an_unknown_name_is_misuse_and_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["gpt-5"])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no recipe for gpt-5; there are smollm2-135m-instruct, whisper-tiny.en" in said.err


@pytest.mark.weights
def test_the_gguf_file_is_kept_as_it_was_published() -> None:
    folder = prepare(SMOLLM2_GGUF)
    [weights] = folder.glob("*.gguf")
    assert sha256(weights) in SHA256.values()
    assert "Kept as published" in (folder / "HOW_IT_WAS_MADE.md").read_text()


def test_a_stack_with_ollama_has_its_part_and_settings_that_lead_to_it(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, more=[Ollama])
    assert [part.name for part in stack.parts] == ["broker", "s3", "mlflow", "ollama"]
    ollama = stack.parts[-1]
    ollama.ports = {"api": 1234, "llama": 1235}
    assert ollama.settings() == {"ollama": {"api_base": "http://127.0.0.1:1234"}}
