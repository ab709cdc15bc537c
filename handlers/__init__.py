"""Tasks: the data that a request of each may hold, its decoding, and the form of its result."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.base import BaseModelHandler
    from handlers.registry import model_registry

__all__ = ["BaseModelHandler", "model_registry"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that importing a module of this package stays light."""
    homes = {"BaseModelHandler": "handlers.base", "model_registry": "handlers.registry"}
    if name in homes:
        return getattr(import_module(homes[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
