"""A task and an engine for tests of delivery: each request says how long it takes and how it ends."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

from engines.base import BaseEngine
from engines.registry import register_engine
from handlers.base import BaseModelHandler
from handlers.errors import InferenceFailed
from handlers.registry import model_registry

AWAKE = "SLEEPY_AWAKE" in os.environ
"""Whether this worker answers at once whatever is asked."""


class SleepyHandler(BaseModelHandler):
    """`data`: {value, seconds?, fail?}; the result repeats the value."""

    task = "sleepy"
    media_fields: ClassVar[tuple[str, ...]] = ("media",)

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        self.validate_input(data, ["value"])
        media = data.get("media")
        return {**data, "media_bytes": len(media.content) if media else 0}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {**result, "metadata": {}}


class SleepyEngine(BaseEngine):
    """Sleeps as long as the slowest request of a batch asks for."""

    name = "sleepy"
    needs_files = False

    def load_model(self, name: str, **kw: Any) -> str:
        return name

    def infer(self, model: str, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        if not AWAKE:
            time.sleep(inputs.get("seconds", 0.0))
        if inputs.get("fail"):
            raise InferenceFailed(str(inputs["fail"]))
        if inputs.get("crash"):
            raise RuntimeError("an engine's own mistake")
        return {
            "value": inputs["value"],
            "media_bytes": inputs["media_bytes"],
            "text": "x" * inputs.get("characters", 0),
        }

    def unload_model(self, model: str) -> bool:
        return True


class PlainHandler(SleepyHandler):
    """The same without media, so that nothing is to be fetched or decoded."""

    task = "plain"
    media_fields = ()


model_registry.register_handler_manually("sleepy", "sleepy", SleepyHandler)
model_registry.register_handler_manually("plain", "plain", PlainHandler)
register_engine("sleepy", SleepyEngine)
