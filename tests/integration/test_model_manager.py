"""The model manager against a real MLflow server: register, resolve, download, follow, survive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from engines.model_files import STAMP
from engines.models import ModelManager
from engines.resolved_model import ResolvedModel
from engines.settings import CacheSettings, MlflowSettings
from handlers.errors import InvalidRequest, ModelLoadFailed, RegistryUnavailable, UnknownModel

Make = Callable[..., ModelManager]

DEADLINE_S = 60.0


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def make(local_stack: LocalStack, tmp_path: Path) -> Make:
    def made(*, cache: dict[str, Any] | None = None, **mlflow: Any) -> ModelManager:
        settings = {"tracking_uri": local_stack.endpoints.mlflow_uri, "alias_poll_s": 0.01, **mlflow}
        files = {"directory": tmp_path / "files", **(cache or {})}
        return ModelManager(MlflowSettings.model_validate(settings), CacheSettings.model_validate(files))

    return made


@pytest.fixture
def models(make: Make) -> ModelManager:
    return make()


@pytest.fixture
def client(local_stack: LocalStack) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(local_stack.endpoints.mlflow_uri)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def model_folder(folder: Path, *, weights: bytes = b"w" * 1000) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "sub" / "weights.safetensors").write_bytes(weights)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != STAMP
    }


def test_a_folder_is_uploaded_resolved_and_downloaded_unchanged(
    models: ModelManager, name: str, folder: Path
) -> None:
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

    brought = models.files(resolved)
    assert brought.parts[-2:] == (name, "1")
    assert content(brought) == content(folder)


def test_the_same_files_and_tags_make_no_second_version(
    models: ModelManager, name: str, folder: Path
) -> None:
    register: dict[str, Any] = {"model_name": name, "model_source": "local", "model_path": folder}
    first = models.register_model_to_mlflow(**register, tags={"task": "asr"})
    assert models.register_model_to_mlflow(**register, tags={"task": "asr"}) == first
    assert models.register_model_to_mlflow(**register, tags={"task": "ocr"}).version == "2"
    (folder / "config.json").write_text("{}")
    assert models.register_model_to_mlflow(**register, tags={"task": "ocr"}).version == "3"


def test_a_plain_name_is_the_champion_where_there_is_one_else_the_newest(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    for task in ("one", "two", "three"):
        models.register_model_to_mlflow(
            model_name=name, model_source="local", model_path=folder, tags={"task": task}
        )
    assert models.resolve(name).version == "3"
    assert models.resolve(f"{name}/2").task == "two"
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "next", "2")
    assert eventually(lambda: models.resolve(name).version, "1")
    assert models.resolve(f"{name}@next").version == "2"
    client.set_registered_model_alias(name, "champion", "2")
    assert eventually(lambda: models.resolve(name).version, "2")


def test_what_is_not_there_is_named_with_what_is(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    client.set_registered_model_alias(name, "blue", "1")
    with pytest.raises(UnknownModel, match=f"did you mean {name}"):
        models.resolve(name + "x")
    with pytest.raises(UnknownModel, match="no alias 'green'; its aliases: blue"):
        models.resolve(f"{name}@green")
    with pytest.raises(UnknownModel, match="no version 7; the newest is 1"):
        models.resolve(f"{name}/7")
    client.create_registered_model(f"{name}-empty")
    with pytest.raises(UnknownModel, match="no version yet"):
        models.resolve(f"{name}-empty")


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
        models.files(model)


def test_a_model_of_the_hub_is_registered_by_reference(models: ModelManager, name: str) -> None:
    model = models.register_model_to_mlflow(
        model_name=name, model_source="huggingface", model_path="hf://org/tiny-model"
    )
    assert (model.source, model.tags["repo_id"]) == ("hf://org/tiny-model", "org/tiny-model")
    again = models.register_model_to_mlflow(
        model_name=name, model_source="huggingface", tags={"repo_id": "org/tiny-model"}
    )
    assert again == model


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_name": "a b"}, "model_name 'a b'"),
        ({"model_source": "s3"}, "none of huggingface, ollama, local"),
        ({"model_path": None}, "model_path is required"),
        ({"model_path": "/no/such/folder"}, "is no folder"),
        ({"model_source": "ollama", "model_path": None}, "ollama_model_name"),
    ],
)
def test_a_registration_that_cannot_be_says_which_argument_is_wrong(
    models: ModelManager, client: Any, name: str, folder: Path, changes: dict[str, Any], says: str
) -> None:
    arguments = {"model_name": name, "model_source": "local", "model_path": folder, **changes}
    with pytest.raises(InvalidRequest, match=says):
        models.register_model_to_mlflow(**arguments)
    assert not client.search_registered_models(f"name='{name}'")


def test_models_are_listed_with_the_version_of_their_plain_name(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    for task in ("one", "two"):
        models.register_model_to_mlflow(
            model_name=name, model_source="local", model_path=folder, tags={"task": task}
        )
    assert [model.version for model in models.list_models() if model.name == name] == ["2"]
    client.set_registered_model_alias(name, "champion", "1")
    assert [model.version for model in models.list_models() if model.name == name] == ["1"]


def test_an_alias_can_be_moved_and_is_listed_with_all_versions(
    models: ModelManager, name: str, folder: Path
) -> None:
    first, _ = (
        models.register_model_to_mlflow(
            model_name=name, model_source="local", model_path=folder, tags={"task": task}
        )
        for task in ("one", "two")
    )
    models.set_alias(first, "champion")
    (listed,) = (model for model in models.registered() if model.preferred.name == name)
    assert (listed.preferred, listed.versions, listed.aliases) == (first, ("1", "2"), {"champion": "1"})
    for reserved in ("latest", "v2"):
        with pytest.raises(InvalidRequest, match="kept by MLflow"):
            models.set_alias(first, reserved)


def test_files_are_downloaded_once_however_many_threads_ask(
    models: ModelManager, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    real, downloads, barrier = models._files._download, [], threading.Barrier(8)

    def counted(source: str, to: Path) -> Path:
        downloads.append(source)
        return real(source, to)

    def bring(_: int) -> Path:
        barrier.wait(DEADLINE_S)
        return models.files(model)

    monkeypatch.setattr(models._files, "_download", counted)
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(bring, range(8)))) == 1
    assert downloads == [model.source]


def test_files_are_downloaded_once_however_many_processes_ask(
    models: ModelManager, local_stack: LocalStack, name: str, folder: Path, tmp_path: Path
) -> None:
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    script = (
        "import sys; from engines.models import ModelManager; "
        "from engines.settings import CacheSettings, MlflowSettings; "
        "models = ModelManager(MlflowSettings(tracking_uri=sys.argv[1]), CacheSettings(directory=sys.argv[2])); "
        "path = models.files(models.resolve(sys.argv[3])); "
        "print(sorted(file.name for file in path.rglob('*') if file.is_file()))"
    )
    command = [sys.executable, "-c", script, local_stack.endpoints.mlflow_uri, str(tmp_path / "shared"), name]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert sum("files_downloaded" in text for text in said) == 1


def test_a_download_that_broke_off_is_never_used(
    models: ModelManager, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    real = models._files._download

    def broken(source: str, to: Path) -> Path:
        (to / "artifacts").mkdir()
        (to / "artifacts" / "config.json").write_text("{}")
        raise RegistryUnavailable("the line broke")

    monkeypatch.setattr(models._files, "_download", broken)
    with pytest.raises(RegistryUnavailable):
        models.files(model)
    left_over = tmp_path / "files" / name / ".1.killed.partial"  # what a killed process leaves
    left_over.mkdir()
    monkeypatch.setattr(models._files, "_download", real)
    assert content(models.files(model)) == content(folder)
    assert not left_over.exists()
    assert list((tmp_path / "files" / name).glob("*.partial")) == []


def test_files_that_were_changed_after_registering_are_refused(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    client.set_model_version_tag(name, "1", "sha256", "0" * 64)
    with pytest.raises(ModelLoadFailed, match="not the ones that were registered"):
        models.files(models.resolve(name))
    assert content(models.files(model)) == content(folder)


def test_files_here_serve_while_the_server_is_away(
    make: Make, local_stack: LocalStack, name: str, folder: Path
) -> None:
    models = make(max_retries=0, timeout_s=2)
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    model = models.resolve(name)
    models.files(model)
    assert models.health() == {"status": "ok", "tracking_uri": local_stack.endpoints.mlflow_uri}
    server = local_stack.part("mlflow")
    server.stop()
    try:
        after_restart = make(max_retries=0, timeout_s=2)
        for manager in (models, after_restart):
            assert manager.resolve(name) == model
            assert content(manager.files(model)) == content(folder)
        with pytest.raises(RegistryUnavailable, match=r"mlflow\.tracking_uri"):
            models.resolve("never-asked")
        with pytest.raises(RegistryUnavailable):
            models.list_models()
        assert models.health()["status"] == "error"
    finally:
        server.start()
    with pytest.raises(UnknownModel):
        models.resolve("never-asked")
    assert models.health()["status"] == "ok"


def test_the_least_recently_used_files_go_when_there_are_too_many(
    make: Make, name: str, tmp_path: Path
) -> None:
    models = make(cache={"directory_max_bytes": 2500})
    versions = []
    for number in range(3):
        folder = model_folder(tmp_path / str(number), weights=bytes([number]) * 1000)
        versions.append(
            models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
        )
    first, second, third = versions
    for age, model in enumerate((second, first)):
        path = models.files(model)
        os.utime(path / STAMP, (1000 + age, 1000 + age))
    models.release_files(first)
    models.release_files(second)
    third_path = models.files(third)
    assert third_path.is_dir()
    assert sorted(path.name for path in third_path.parent.glob("[0-9]*")) == ["1", "3"]


def test_files_in_use_stay_even_beyond_the_budget(make: Make, name: str, tmp_path: Path) -> None:
    models = make(cache={"directory_max_bytes": 500})
    paths = []
    for number in range(2):
        folder = model_folder(tmp_path / str(number), weights=bytes([number]) * 1000)
        model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
        paths.append(models.files(model))
    assert all(path.is_dir() for path in paths)


def test_the_same_name_and_version_of_another_server_is_brought_anew(
    models: ModelManager, name: str, folder: Path
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    path = models.files(model)
    stamp = json.loads((path / STAMP).read_text())
    (path / STAMP).write_text(json.dumps({**stamp, "source": "mlflow-artifacts:/9/models/m-0/artifacts"}))
    (path / "config.json").write_text("of another server")
    assert content(models.files(model)) == content(folder)


def test_a_physical_path_is_used_in_place_only_under_an_allowed_root(
    make: Make, name: str, folder: Path
) -> None:
    registered = make().register_model_to_mlflow(
        model_name=name, model_source="local", tags={"physical_path": str(folder)}
    )
    with pytest.raises(ModelLoadFailed, match=r"mlflow\.physical_roots"):
        make().files(registered)
    assert make(physical_roots=[folder.parent]).files(registered) == folder.resolve()


def test_a_physical_path_that_is_not_trusted_is_passed_over_where_the_files_are_on_the_server(
    make: Make, name: str, folder: Path, tmp_path: Path
) -> None:
    secret = model_folder(tmp_path / "secret", weights=b"secret")
    model = make().register_model_to_mlflow(
        model_name=name, model_source="local", model_path=folder, tags={"physical_path": str(secret)}
    )
    assert content(make().files(model)) == content(folder)


def test_a_link_out_of_an_allowed_root_is_not_followed(
    make: Make, name: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(folder)
    model = make().register_model_to_mlflow(
        model_name=name, model_source="local", tags={"physical_path": str(tmp_path / "root" / "link")}
    )
    with pytest.raises(ModelLoadFailed):
        make(physical_roots=[tmp_path / "root"]).files(model)


def test_a_model_logged_by_mlflow_transformers_becomes_a_plain_folder(
    models: ModelManager, name: str, tmp_path: Path
) -> None:
    model = _register_logged(models, name, tmp_path, {"transformers": {"model_binary": "model"}})
    assert sorted(path.name for path in models.files(model).glob("[a-z]*.json")) == [
        "config.json",
        "tokenizer.json",
    ]


@pytest.mark.parametrize(
    ("flavors", "says"),
    [
        ({"sklearn": {"pickled_model": "model.pkl"}, "python_function": {}}, "flavour sklearn"),
        ({"transformers": {"model_binary": "model", "code": "code"}}, "code_paths"),
        ({"transformers": {"model_binary": "../../etc"}}, "no folder"),
    ],
)
def test_other_flavours_and_models_with_code_are_refused_with_the_reason(
    models: ModelManager, name: str, tmp_path: Path, flavors: dict[str, Any], says: str
) -> None:
    model = _register_logged(models, name, tmp_path, flavors)
    with pytest.raises(ModelLoadFailed, match=says):
        models.files(model)


def _register_logged(
    models: ModelManager, name: str, tmp_path: Path, flavors: dict[str, Any]
) -> ResolvedModel:
    """Register a folder in the layout of mlflow.transformers."""
    import yaml

    logged = tmp_path / "logged"
    (logged / "model").mkdir(parents=True)
    (logged / "model" / "config.json").write_text("{}")
    (logged / "components" / "tokenizer").mkdir(parents=True)
    (logged / "components" / "tokenizer" / "tokenizer.json").write_text("{}")
    (logged / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    return models.register_model_to_mlflow(model_name=name, model_source="local", model_path=logged)


def eventually(value: Callable[[], Any], wanted: Any) -> bool:
    """Poll until `value` is `wanted`, for at most the deadline."""
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.02)):
        if value() == wanted:
            return True
        pause.wait(0.02)
    return False
