"""The managers of this process, made from its settings when first used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.models.hub import WantedFiles
from engines.models.model_manager import ModelManager
from engines.run.direct_call import fetch_by_entry_point

T = TypeVar("T")

_lock = threading.RLock()


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """Return a function that makes its object once, whichever thread calls it."""
    made = cache(make)

    def get() -> T:
        with _lock:
            return made()

    return get


@_once
def _settings() -> EngineSettings:
    from engines.configuration import load

    return load(EngineSettings).settings


@_once
def default_model_manager() -> ModelManager:
    """Return this process's manager of models."""
    settings = _settings()
    return ModelManager(settings.mlflow, settings.cache, wanted=WantedFiles.by(settings.transformers))


@_once
def default_inference_manager() -> InferenceManager:
    """Return this process's manager; its callers may read what the process may, so local paths are trusted."""
    fetch = partial(fetch_by_entry_point, trust_local_paths=True)
    return InferenceManager.from_settings(_settings(), models=default_model_manager(), fetch_media=fetch)
