"""Names, versions and aliases at a real MLflow server, also while it is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from engines.models.model_manager import ModelManager
from handlers.errors import InvalidRequest, RegistryUnavailable, UnknownModel
from tests.integration.registry.folders import Make, content

DEADLINE_S = 60.0


def test_a_plain_name_is_the_champion_where_there_is_one_else_the_newest(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    for task in ("one", "two", "three"):
        models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder, tags={"task": task})
    assert models.resolve(name).version == "3"
    assert models.resolve(f"{name}/2").task == "two"
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "next", "2")
    assert eventually(lambda: models.resolve(name).version, "1")
    assert models.resolve(f"{name}@next").version == "2"
    client.set_registered_model_alias(name, "champion", "2")
    assert eventually(lambda: models.resolve(name).version, "2")


def test_a_version_that_is_deleted_takes_its_alias_along(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    for task in ("one", "two"):
        models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder, tags={"task": task})
    client.set_registered_model_alias(name, "champion", "2")
    assert eventually(lambda: models.resolve(name).version, "2")
    client.delete_model_version(name, "2")
    assert eventually(lambda: models.resolve(name).version, "1")
    with pytest.raises(UnknownModel, match="no alias 'champion'"):
        models.resolve(f"{name}@champion")


def test_a_model_deleted_and_registered_anew_is_another_one_with_files_of_its_own(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    before = models.resolve(name)
    assert content(models.files.acquire(before)) == content(folder)
    client.delete_registered_model(name)
    (folder / "more.txt").write_bytes(b"anew")
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    assert eventually(lambda: models.resolve(name).id != before.id, True)
    anew = models.resolve(name)
    assert (before.key, anew.key) == (f"{name}/1", f"{name}/1")
    assert content(models.files.acquire(anew)) == content(folder)


def test_what_is_not_there_is_named_with_what_is(models: ModelManager, client: Any, name: str, folder: Path) -> None:
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    client.set_registered_model_alias(name, "blue", "1")
    with pytest.raises(UnknownModel, match=f"did you mean {name}"):
        models.resolve(name + "x")
    with pytest.raises(UnknownModel, match=r"; there are .*\S") as raised:
        models.resolve("0123456789")  # like none of them
    assert "did you mean" not in raised.value.message
    with pytest.raises(UnknownModel, match="no alias 'green'; its aliases: blue"):
        models.resolve(f"{name}@green")
    with pytest.raises(UnknownModel, match="no version 7; the newest is 1"):
        models.resolve(f"{name}/7")
    client.create_registered_model(f"{name}-empty")
    with pytest.raises(UnknownModel, match="has no version; register one"):
        models.resolve(f"{name}-empty")


def test_models_are_listed_with_the_version_of_their_plain_name(
    models: ModelManager, client: Any, name: str, folder: Path
) -> None:
    for task in ("one", "two"):
        models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder, tags={"task": task})
    assert [model.version for model in models.list_models() if model.name == name] == ["2"]
    client.set_registered_model_alias(name, "champion", "1")
    assert [model.version for model in models.list_models() if model.name == name] == ["1"]


def test_an_alias_can_be_moved_and_is_listed_with_all_versions(models: ModelManager, name: str, folder: Path) -> None:
    first, _ = (
        models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder, tags={"task": task})
        for task in ("one", "two")
    )
    models.set_alias(first, "champion")
    (listed,) = (model for model in models.registry.registered() if model.preferred.name == name)
    assert (listed.preferred, listed.versions, listed.aliases) == (first, ("1", "2"), {"champion": "1"})
    for reserved in ("latest", "v2"):
        with pytest.raises(InvalidRequest, match="kept by MLflow"):
            models.set_alias(first, reserved)


def test_files_here_serve_while_the_server_is_away(
    make: Make, local_stack: LocalStack, name: str, folder: Path
) -> None:
    models = make(max_retries=0, timeout_s=2)
    models.register_model_to_mlflow(model_name=name, model_source="local", model_path=folder)
    model = models.resolve(name)
    models.files.acquire(model)
    assert models.health() == {"status": "ok", "tracking_uri": local_stack.mlflow.url}
    server = local_stack.mlflow
    server.stop()
    try:
        after_restart = make(max_retries=0, timeout_s=2)
        for manager in (models, after_restart):
            assert manager.resolve(name) == model
            assert content(manager.files.acquire(model)) == content(folder)
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


def eventually(value: Callable[[], Any], wanted: Any) -> bool:
    """Poll until `value` is `wanted`, for at most the deadline."""
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.02)):
        if value() == wanted:
            return True
        pause.wait(0.02)
    return False
