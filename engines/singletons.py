"""The managers of this process, made from its settings when first used."""

from __future__ import annotations

import threading
from functools import cache, partial

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.models.hub import WantedFiles
from engines.models.model_manager import ModelManager
from engines.run.direct_call import fetch_by_entry_point

_lock = threading.RLock()


def default_model_manager() -> ModelManager:
    """Return this process's manager of models."""
    with _lock:
        return _models()


def default_inference_manager() -> InferenceManager:
    """Return this process's manager; its callers may read what the process may, so local paths are trusted."""
    with _lock:
        return _inference()


@cache
def _settings() -> EngineSettings:
    from engines.configuration import load

    return load(EngineSettings).settings


@cache
def _models() -> ModelManager:
    settings = _settings()
    return ModelManager(settings.mlflow, settings.cache, wanted=WantedFiles.by(settings.transformers))


@cache
def _inference() -> InferenceManager:
    fetch = partial(fetch_by_entry_point, trust_local_paths=True)
    return InferenceManager.from_settings(_settings(), models=_models(), fetch_media=fetch)
