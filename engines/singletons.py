"""The managers of this process, made from its settings when first asked for."""

from __future__ import annotations

import threading
from functools import cache
from importlib.metadata import entry_points

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.models.hub import WantedFiles
from engines.models.model_manager import ModelManager
from engines.run.media_values import FetchMedia
from handlers.errors import InvalidInput
from handlers.media import Media

MEDIA_ENTRY_POINTS = "inferstream.media"
"""Group of entry points whose `default` fetches media by address."""

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
    return InferenceManager.from_settings(
        _settings(), models=_models(), fetch_media=_fetch_media, trust_local_paths=True
    )


def _fetch_media(address: str) -> Media:
    """Fetch by what an installed package offers: the stream side does, and this side may not import it."""
    offers = list(entry_points(group=MEDIA_ENTRY_POINTS))
    if not offers:
        raise InvalidInput(
            f"{address[:80]} cannot be fetched: no installed package offers an entry point "
            f"{MEDIA_ENTRY_POINTS}; install inferstream again, or send the bytes themselves"
        )
    try:
        fetch: FetchMedia = offers[0].load()
    except ImportError as error:
        raise InvalidInput(
            f"{address[:80]} cannot be fetched: {error}; install what it needs (pip install 'inferstream[all]')"
        ) from error
    return fetch(address)
