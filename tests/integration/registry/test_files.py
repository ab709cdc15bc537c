"""Files brought here from a real MLflow server: once, whole, and within a budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from engines.models.model_files import STAMP
from engines.models.model_manager import ModelManager
from handlers.errors import ModelLoadFailed, RegistryUnavailable
from tests.integration.registry.folders import Make, content, model_folder

DEADLINE_S = 60.0


def test_files_are_downloaded_once_however_many_threads_ask(
    models: ModelManager, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    real, downloads, barrier = models.files._download, [], threading.Barrier(8)

    def counted(source: str, to: Path) -> Path:
        downloads.append(source)
        return real(source, to)

    def bring(_: int) -> Path:
        barrier.wait(DEADLINE_S)
        return models.files.acquire(model)

    monkeypatch.setattr(models.files, "_download", counted)
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(bring, range(8)))) == 1
    assert downloads == [model.source]


def test_files_are_downloaded_once_however_many_processes_ask(
    models: ModelManager, local_stack: LocalStack, name: str, folder: Path, tmp_path: Path
) -> None:
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    script = (
        "import logging, sys; logging.basicConfig(level='INFO', stream=sys.stdout); "
        "from engines.models.model_manager import ModelManager; "
        "from engines.config.settings import CacheSettings, MlflowSettings; "
        "models = ModelManager(MlflowSettings(tracking_uri=sys.argv[1]), CacheSettings(directory=sys.argv[2])); "
        "path = models.files.acquire(models.resolve(sys.argv[3])); "
        "print(sorted(file.name for file in path.rglob('*') if file.is_file()))"
    )
    command = [sys.executable, "-c", script, local_stack.mlflow.url, str(tmp_path / "shared"), name]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert sum("files_downloaded" in text for text in said) == 1


def test_a_download_that_broke_off_is_never_used(
    models: ModelManager, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    real = models.files._download

    def broken(source: str, to: Path) -> Path:
        (to / "artifacts").mkdir()
        (to / "artifacts" / "config.json").write_text("{}")
        raise RegistryUnavailable("the line broke")

    monkeypatch.setattr(models.files, "_download", broken)
    with pytest.raises(RegistryUnavailable):
        models.files.acquire(model)
    left_over = tmp_path / "files" / name / ".1.killed.partial"  # what a killed process leaves
    left_over.mkdir()
    monkeypatch.setattr(models.files, "_download", real)
    assert content(models.files.acquire(model)) == content(folder)
    assert not left_over.exists()
    assert list((tmp_path / "files" / name).glob("*.partial")) == []


def test_files_that_were_changed_after_registering_are_refused(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    client.set_model_version_tag(name, "1", "sha256", "0" * 64)
    with pytest.raises(ModelLoadFailed, match="not the ones that were registered"):
        models.files.acquire(models.resolve(name))
    assert content(models.files.acquire(model)) == content(folder)


def test_the_least_recently_used_files_go_when_there_are_too_many(make: Make, name: str, tmp_path: Path) -> None:
    models = make(cache={"directory_max_bytes": 2500})
    versions = []
    for number in range(3):
        folder = model_folder(tmp_path / str(number), weights=bytes([number]) * 1000)
        versions.append(models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder))
    first, second, third = versions
    for age, model in enumerate((second, first)):
        path = models.files.acquire(model)
        os.utime(path / STAMP, (1000 + age, 1000 + age))
    models.files.release(first)
    models.files.release(second)
    third_path = models.files.acquire(third)
    assert third_path.is_dir()
    assert sorted(path.name for path in third_path.parent.glob("[0-9]*")) == ["1", "3"]


def test_files_in_use_stay_even_beyond_the_budget(make: Make, name: str, tmp_path: Path) -> None:
    models = make(cache={"directory_max_bytes": 500})
    paths = []
    for number in range(2):
        folder = model_folder(tmp_path / str(number), weights=bytes([number]) * 1000)
        model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
        paths.append(models.files.acquire(model))
    assert all(path.is_dir() for path in paths)


def test_the_same_name_and_version_of_another_server_is_brought_anew(
    models: ModelManager, name: str, folder: Path
) -> None:
    model = models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    path = models.files.acquire(model)
    stamp = json.loads((path / STAMP).read_text())
    (path / STAMP).write_text(json.dumps({**stamp, "source": "mlflow-artifacts:/9/models/m-0/artifacts"}))
    (path / "config.json").write_text("of another server")
    assert content(models.files.acquire(model)) == content(folder)
