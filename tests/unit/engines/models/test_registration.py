"""A folder that cannot be a model is refused before anything is uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from engines.models import registration as model_registration
from engines.models.registration import register
from handlers.errors import InvalidRequest


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "model"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def registered(folder: Path | str, source: str = "huggingface") -> Any:
    registry = MagicMock()
    registry.newest.return_value = None
    registry.upload.return_value = ("s3://b/m", "id")
    register(registry, model_name="m", model_source=source, model_path=folder)
    return registry.create_version.call_args


@pytest.mark.parametrize(
    "names",
    [
        ("config.json", "model.safetensors"),
        ("detection/config.json", "detection/model.safetensors", "README.md"),
        ("MLmodel", "model/weights"),
        ("config.json", "pytorch_model-00001-of-00002.bin"),
    ],
)
def test_what_holds_a_model_is_registered(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert registered(folder_of(tmp_path, *names)) is not None


def test_a_folder_of_ones_own_may_hold_any_file(tmp_path: Path) -> None:
    assert registered(folder_of(tmp_path, "weights.dat", "README.md"), source="local") is not None


@pytest.mark.parametrize("source", ["huggingface", "local"])
def test_a_folder_with_nothing_but_texts_about_a_model_is_refused(tmp_path: Path, source: str) -> None:
    folder = folder_of(tmp_path, "README.md", "LICENSE", ".gitattributes")
    with pytest.raises(InvalidRequest, match=r"holds no model, only .*README\.md; give the folder with its weights"):
        registered(folder, source)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("model.safetensors",), "has no config.json"),
        (("config.json", "tokenizer.json"), "has no weights"),
        (
            ("adapter_config.json", "adapter_model.safetensors"),
            "holds a PEFT adapter, not a whole model; merge it",
        ),
        (
            ("config.json", "adapter_config.json", "adapter_model.bin", "tokenizer.json"),
            "holds a PEFT adapter",
        ),
    ],
)
def test_a_folder_that_lacks_a_part_is_told_which(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        registered(folder_of(tmp_path, *names))


def test_a_model_that_was_saved_beside_its_adapter_is_registered(tmp_path: Path) -> None:
    names = ("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors")
    assert registered(folder_of(tmp_path, *names)) is not None


@pytest.mark.parametrize("path", ["./whisper", "~/nowhere", "../no-such-model"])
def test_a_folder_that_is_not_there_is_not_taken_for_a_model_of_the_hub(path: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a folder; give the folder"):
        registered(path)


def test_a_file_that_vanishes_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "config.json", "model.safetensors")

    def gone(of: Path) -> str:
        (of / "model.safetensors").unlink()
        raise FileNotFoundError(2, "No such file or directory", str(of / "model.safetensors"))

    monkeypatch.setattr(model_registration, "digest_of", gone)
    with pytest.raises(InvalidRequest, match=r"model\.safetensors cannot be read \(No such file or directory\)"):
        registered(folder)
