"""A task and an engine for tests of hot swap: every answer says which version of the model gave it."""

from __future__ import annotations

import threading
import time
from typing import Any

from engines.base import BaseEngine
from engines.registry import register_engine
from handlers.base import BaseModelHandler
from handlers.errors import InferenceFailed, ModelLoadFailed
from handlers.registry import model_registry

LOAD_S = 0.3
"""How long a version takes to load, so that requests come meanwhile."""


class VersionedModel:
    """One loaded version, which knows when it was unloaded."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.is_loaded = True


class VersionedHandler(BaseModelHandler):
    """`data`: {value}; the result repeats it beside the version."""

    task = "versioned"

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        self.validate_input(data, ["value"])
        return data

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {**result, "metadata": {}}


class VersionedEngine(BaseEngine):
    """Answers with the version before and after a short sleep; refuses to load what is tagged `broken`."""

    name = "versioned"
    needs_files = False

    def load_model(self, name: str, **kw: Any) -> VersionedModel:
        threading.Event().wait(LOAD_S)
        if kw["tags"].get("broken"):
            raise ModelLoadFailed(f"version {kw['version']} of {name} is broken on purpose")
        return VersionedModel(kw["version"])

    def infer(self, model: VersionedModel, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.005)
        if not model.is_loaded:
            raise InferenceFailed(f"version {model.version} was unloaded while it ran")
        return {"value": inputs["value"], "version": model.version}

    def unload_model(self, model: VersionedModel) -> bool:
        model.is_loaded = False
        return True


model_registry.register_handler_manually("versioned", "versioned", VersionedHandler)
register_engine("versioned", VersionedEngine)
