"""Registering at a real MLflow server: folders, the hub, Ollama; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.models.model_manager import ModelManager
from handlers.errors import InvalidRequest, ModelLoadFailed
from tests.integration.registry.folders import content, model_folder


def test_a_folder_is_uploaded_resolved_and_downloaded_unchanged(models: ModelManager, name: str, folder: Path) -> None:
    registered = models.register_model_to_mlflow(
        model_name=name,
        model_source="huggingface",
        model_path=folder,
        tags={"task": "asr", "repo_id": "org/tiny"},
    )
    resolved = models.resolve(name)
    assert resolved == registered
    assert (resolved.key, resolved.task, resolved.engine) == (f"{name}/1", "asr", "transformers")
    assert resolved.tags["repo_id"] == "org/tiny"
    assert len(resolved.tags["sha256"]) == 64

    brought = models.files.acquire(resolved)
    assert brought.parts[-2:] == (name, "1")
    assert content(brought) == content(folder)


def test_the_same_files_and_tags_make_no_second_version(models: ModelManager, name: str, folder: Path) -> None:
    register: dict[str, Any] = {"model_name": name, "model_source": "local", "model_path": folder}
    first = models.register_model_to_mlflow(**register, tags={"task": "asr"})
    assert models.register_model_to_mlflow(**register, tags={"task": "asr"}) == first
    assert models.register_model_to_mlflow(**register, tags={"task": "ocr"}).version == "2"
    (folder / "config.json").write_text("{}")
    assert models.register_model_to_mlflow(**register, tags={"task": "ocr"}).version == "3"


def test_an_ollama_model_keeps_its_real_name_in_a_tag(models: ModelManager, name: str) -> None:
    models.register_model_to_mlflow(
        model_name=name,
        model_source="ollama",
        tags={"task": "text-generation", "ollama_model_name": "hf.co/org/llama3.2:1b"},
    )
    model = models.resolve(name)
    assert (model.engine, model.task) == ("ollama", "text-generation")
    assert model.source == "ollama://local/hf.co-org-llama3.2-1b"
    assert model.tags["ollama_model_name"] == "hf.co/org/llama3.2:1b"
    with pytest.raises(ModelLoadFailed, match="holds no files"):
        models.files.acquire(model)


def test_a_model_of_the_hub_is_registered_by_reference(models: ModelManager, name: str) -> None:
    model = models.register_model_to_mlflow(
        model_name=name, model_source="huggingface", model_path="hf://org/tiny-model"
    )
    assert (model.source, model.tags["repo_id"]) == ("hf://org/tiny-model", "org/tiny-model")
    again = models.register_model_to_mlflow(
        model_name=name, model_source="huggingface", tags={"repo_id": "org/tiny-model"}
    )
    assert again == model


def test_a_model_of_the_hub_is_pinned_to_the_commit_that_is_known(
    models: ModelManager, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached, commit = tmp_path / "models--org--tiny", "a" * 40
    model_folder(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    by_reference = models.register_model_to_mlflow(
        model_name=name, model_source="huggingface", model_path="hf://org/tiny", tags={"task": "asr"}
    )
    assert (by_reference.source, by_reference.tags["revision"]) == ("hf://org/tiny", commit)
    assert content(models.files.acquire(by_reference)) == content(cached / "snapshots" / commit)

    uploaded = models.register_model_to_mlflow(model_name=name, model_source="huggingface", model_path=cached)
    assert (uploaded.tags["repo_id"], uploaded.tags["revision"]) == ("org/tiny", commit)
    assert uploaded.source != by_reference.source
    assert content(models.files.acquire(uploaded)) == content(cached / "snapshots" / commit)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_name": "a b"}, "model_name 'a b'"),
        ({"model_source": "s3"}, "none of huggingface, ollama, local"),
        ({"model_path": None}, "model_path is required"),
        ({"model_path": "/no/such/folder"}, "is not a folder"),
        ({"model_source": "ollama", "model_path": None}, "ollama_model_name"),
        ({"model_source": "ollama", "model_path": "no such/model name!!"}, "is not a name that Ollama takes"),
    ],
)
def test_a_registration_that_cannot_be_says_which_argument_is_wrong(
    models: ModelManager, client: Any, name: str, folder: Path, changes: dict[str, Any], says: str
) -> None:
    arguments = {"model_name": name, "model_source": "local", "model_path": folder, **changes}
    with pytest.raises(InvalidRequest, match=says):
        models.register_model_to_mlflow(**arguments)
    assert not client.search_registered_models(f"name='{name}'")
