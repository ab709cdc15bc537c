"""Tasks: what a request of each may hold, how it is decoded, how its result reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.base import BaseModelHandler
    from handlers.registry import model_registry

__all__ = ["BaseModelHandler", "model_registry"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that importing a module of this package stays light."""
    if name == "BaseModelHandler":
        from handlers.base import BaseModelHandler

        return BaseModelHandler
    if name == "model_registry":
        from handlers.registry import model_registry

        return model_registry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
