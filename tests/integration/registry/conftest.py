"""Managers of one real MLflow server, each test with a model name and a file cache of its own."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from engines.config.settings import CacheSettings, MlflowSettings
from engines.models.model_manager import ModelManager
from tests.integration.registry.folders import Make, model_folder


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def make(local_stack: LocalStack, tmp_path: Path) -> Make:
    def made(*, cache: dict[str, Any] | None = None, **mlflow: Any) -> ModelManager:
        settings = {"tracking_uri": local_stack.mlflow.url, "alias_poll_s": 0.01, **mlflow}
        files = {"directory": tmp_path / "files", **(cache or {})}
        return ModelManager(MlflowSettings.model_validate(settings), CacheSettings.model_validate(files))

    return made


@pytest.fixture
def models(make: Make) -> ModelManager:
    return make()


@pytest.fixture
def client(local_stack: LocalStack) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(local_stack.mlflow.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")
