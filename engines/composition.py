"""Puts managers together from settings, and keeps the two that `from engines import ...` gives."""

from __future__ import annotations

import threading
from functools import cache

from engines.inference import Handlers, InferenceManager, ModelListener
from engines.media_values import FetchMedia
from engines.model_cache import ModelCache
from engines.models import ModelManager
from engines.registry import EngineRegistry
from engines.settings import EngineSettings

_lock = threading.RLock()


def build(
    settings: EngineSettings,
    *,
    handlers: Handlers,
    fetch_media: FetchMedia | None = None,
    trust_local_paths: bool = False,
    on_model: ModelListener | None = None,
    models: ModelManager | None = None,
) -> InferenceManager:
    """Return a new manager for `settings`; nothing is connected to or loaded before the first request."""
    return InferenceManager(
        models=models or ModelManager(settings.mlflow, settings.cache),
        cache=ModelCache(settings.cache.max_models, settings.cache.max_bytes),
        engines=EngineRegistry(settings),
        handlers=handlers,
        media=settings.media,
        fetch_media=fetch_media,
        trust_local_paths=trust_local_paths,
        on_model=on_model,
    )


def default_model_manager() -> ModelManager:
    """Return this process's manager of models, made from its settings by the first call."""
    with _lock:
        return _default_models()


def default_inference_manager() -> InferenceManager:
    """Return this process's manager, made by the first call; its callers are trusted with local paths."""
    with _lock:
        return _default_manager()


@cache
def _default_settings() -> EngineSettings:
    from engines.configuration import load

    return load(EngineSettings).settings


@cache
def _default_models() -> ModelManager:
    settings = _default_settings()
    return ModelManager(settings.mlflow, settings.cache)


@cache
def _default_manager() -> InferenceManager:
    from handlers import model_registry

    settings = _default_settings()
    model_registry.configure(settings.media)
    return build(settings, handlers=model_registry, models=_default_models(), trust_local_paths=True)
