"""Engines load and run the models of the registry.

`inference_manager` and `model_manager` belong to this process and are made from its settings when first used. No
module of this package may have either name: its import would replace the object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.base import BaseEngine as BaseEngine
    from engines.inference import InferenceManager
    from engines.models.model_manager import ModelManager

    inference_manager: InferenceManager
    model_manager: ModelManager

__all__ = ["BaseEngine", "inference_manager", "model_manager"]


def __getattr__(name: str) -> Any:
    if name in ("inference_manager", "model_manager"):
        from engines.inference import default

        return default(name)
    if name == "BaseEngine":
        from engines.base import BaseEngine

        return BaseEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
