"""The managers of this process, made from its settings when first used."""

from __future__ import annotations

import threading
from functools import cache, partial

from engines.config.settings import EngineSettings
from engines.configuration import load
from engines.inference import InferenceManager
from engines.models.hub import WantedFiles
from engines.models.model_manager import ModelManager
from engines.run.direct_call import fetch_by_entry_point

_lock = threading.RLock()


def default(name: str) -> InferenceManager | ModelManager:
    """Return `inference_manager` or `model_manager` of this process; made once, whichever thread asks first."""
    with _lock:
        return _model_manager() if name == "model_manager" else _inference_manager()


@cache
def _settings() -> EngineSettings:
    return load(EngineSettings).settings


@cache
def _model_manager() -> ModelManager:
    settings = _settings()
    return ModelManager(settings.mlflow, settings.cache, wanted=WantedFiles.by(settings.transformers))


@cache
def _inference_manager() -> InferenceManager:
    # Its callers may read what the process may, so local paths are trusted.
    fetch = partial(fetch_by_entry_point, trust_local_paths=True)
    return InferenceManager.from_settings(_settings(), models=_model_manager(), fetch_media=fetch)
