"""The managers of this process, made from its settings when first used."""

from __future__ import annotations

import threading
from functools import cache, partial

from engines.config.settings import EngineSettings
from engines.configuration import load
from engines.inference import InferenceManager
from engines.models.model_manager import ModelManager
from engines.run.direct_call import fetch_by_entry_point

_lock = threading.RLock()


def default(name: str) -> InferenceManager | ModelManager:
    """Return `inference_manager` or `model_manager` of this process; made once, whichever thread asks first."""
    with _lock:
        manager = _inference_manager()
    return manager.models if name == "model_manager" else manager


@cache
def _inference_manager() -> InferenceManager:
    # Its callers may read what the process may, so local paths are trusted.
    fetch = partial(fetch_by_entry_point, trust_local_paths=True)
    return InferenceManager.from_settings(load(EngineSettings).settings, fetch_media=fetch)
