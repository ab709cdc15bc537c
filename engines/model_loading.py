"""Brings one model into memory and lets it go again, for the cache; tells whoever wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from engines.base import BaseEngine
from engines.models import ModelManager
from engines.resolved_model import ResolvedModel
from handlers.errors import InferenceError, ModelLoadFailed

log = structlog.get_logger(__name__)

ModelListener = Callable[[str, ResolvedModel, Mapping[str, Any]], None]
"""Called with "model_loaded" or "model_evicted", the model, and {engine, task, seconds, bytes}."""


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """How one model is loaded for one task. The cache keeps it as long as the model, so it holds no request."""

    engine: str
    task: str
    model: ResolvedModel
    runner: BaseEngine
    models: ModelManager
    on_model: ModelListener | None = None

    @property
    def key(self) -> str:
        """What the cache calls the model: `engine/task/name/version`."""
        return f"{self.engine}/{self.task}/{self.model.key}"

    def load(self) -> tuple[Any, int]:
        """Return the loaded model and its bytes; its files count as in use from now until `unload`.

        Raises:
            InferenceError: what `files` and `load_model` raise of that tree.
            ModelLoadFailed: permanent; whatever else `load_model` raises.
        """
        started = time.perf_counter()
        details: dict[str, Any] = {
            "task": self.task,
            "version": self.model.version,
            "tags": dict(self.model.tags),
        }
        if self.runner.needs_files:
            details["path"] = self.models.files(self.model)
        try:
            loaded = self.runner.load_model(self.model.name, **details)
            size = self.runner.model_bytes(loaded)
        except BaseException as error:
            self._release_files()
            if isinstance(error, InferenceError) or not isinstance(error, Exception):
                raise
            log.exception("load_failed", engine=self.engine, model=self.model.key)
            raise ModelLoadFailed(
                f"engine {self.engine} cannot load {self.model.key}: {type(error).__name__}: {error}"
            ) from error
        self._tell("model_loaded", time.perf_counter() - started, size)
        return loaded, size

    def unload(self, loaded: Any) -> None:
        """Free the model's memory; its files are no longer in use."""
        started = time.perf_counter()
        try:
            size = self.runner.model_bytes(loaded)
            self.runner.unload_model(loaded)
        finally:
            self._release_files()
        self._tell("model_evicted", time.perf_counter() - started, size)

    def _release_files(self) -> None:
        if self.runner.needs_files:
            self.models.release_files(self.model)

    def _tell(self, kind: str, seconds: float, size: int) -> None:
        log.info(kind, engine=self.engine, model=self.model.key, seconds=round(seconds, 3), bytes=size)
        if self.on_model is None:
            return
        try:
            details = {"engine": self.engine, "task": self.task, "seconds": seconds, "bytes": size}
            self.on_model(kind, self.model, details)
        except Exception:
            # The model is there, or gone, whatever becomes of the news.
            log.exception("model_listener_failed", kind=kind, model=self.model.key)
