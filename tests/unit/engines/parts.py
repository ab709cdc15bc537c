"""A handler, engines and a set of known models, small enough to see through, for the tests of the manager."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from engines.base import BaseEngine
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from engines.config.settings import CacheSettings, MlflowSettings
from engines.inference import InferenceManager
from engines.models.model_files import ModelFiles
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from engines.registry import EngineRegistry
from engines.run.direct_call import FetchMedia, fetch_by_entry_point
from engines.run.job import Job
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError, InvalidInput, UnknownModel
from handlers.media import Media
from handlers.registry import HandlerRegistry
from tests.prepared_job import prepared_job


class ShoutHandler(BaseModelHandler):
    """Takes a text, or media whose bytes are one; says how it went wrong where the text asks for that."""

    media_fields: ClassVar[tuple[str, ...]] = ("media", "more")

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        if isinstance(data.get("media"), Media):
            return {"text": data["media"].content.decode(), "source": data["media"].source}
        self.validate_input(data, ["text"])
        if data["text"] == "refuse":
            raise InvalidInput("data.text is refused")
        if data["text"] == "value-error":
            raise ValueError("text must not be 'value-error'")
        if data["text"] == "preprocess-bug":
            raise KeyError("a bug")
        return {"text": data["text"]}

    def postprocess(self, result: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        if result["shouted"] == "POSTPROCESS-BUG":
            raise KeyError("a bug")
        return {"text": result["shouted"], "metadata": {"length": len(result["shouted"])}}


class ShoutEngine(BaseEngine):
    """Upper-cases texts, one after the other."""

    supported_tasks = frozenset({"shout"})

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.loaded: list[dict[str, Any]] = []
        self.unloaded: list[Any] = []
        self.broken = False

    def load_model(self, name: str, **kw: Any) -> Any:
        if self.broken:
            raise OSError("weights are gone")
        self.loaded.append({"name": name, **kw})
        return {"name": name}

    def infer(self, model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        if inputs["text"] == "engine-bug":
            raise RuntimeError("the model broke")
        return {"shouted": inputs["text"].upper()}

    def unload_model(self, model: Any) -> bool:
        self.unloaded.append(model["name"])
        return True

    def model_bytes(self, model: Any) -> int:
        return 10

    def batch_key(self, options: Any) -> str:
        return f"top_k={options.get('top_k')}"


class KnownFiles(ModelFiles):
    """Counts which files are in use; they are always here, where `models` says."""

    def __init__(self, directory: Path, models: KnownModels) -> None:
        super().__init__(CacheSettings(directory=directory), (), models.registry.download)
        self._models = models
        self._counting = threading.Lock()
        self.in_use: Counter[str] = Counter()

    def acquire(self, model: ResolvedModel) -> Path:
        with self._counting:
            self.in_use[model.key] += 1
        return self._models.folder_of(model)

    def release(self, model: ResolvedModel) -> None:
        with self._counting:
            self.in_use[model.key] -= 1


class KnownModels(ModelManager):
    """A manager that knows its models by heart: it asks no server, and its files are always here."""

    def __init__(self, directory: Path, *models: ResolvedModel) -> None:
        super().__init__(MlflowSettings(), CacheSettings(directory=directory))
        self.models = {model.name: model for model in models}
        self.asked: Counter[str] = Counter()
        """How often `resolve` was called, by name; the watch over versions calls `renew`."""
        self.files = files = KnownFiles(directory, self)
        self.files_in_use = files.in_use
        self.resolve_error: InferenceError | None = None
        self._counting = threading.Lock()

    def resolve(self, model_name: str) -> ResolvedModel:
        with self._counting:
            self.asked[model_name] += 1
        return self.renew(model_name)

    def is_fresh(self, model_name: str) -> bool:
        return self.resolve_error is None and model_name in self.models

    def renew(self, model_name: str) -> ResolvedModel:
        if self.resolve_error is not None:
            raise self.resolve_error
        if model_name not in self.models:
            raise UnknownModel(f"model_name {model_name!r} is not known")
        return self.models[model_name]

    def folder_of(self, model: ResolvedModel) -> Path:
        return Path("/models") / model.key

    def connect(self) -> None:
        """There is no server."""

    def health(self) -> dict[str, Any]:
        return {"status": "ok"}


class Bench:
    """A manager over these parts, with the parts at hand."""

    def __init__(
        self,
        directory: Path,
        *,
        fetch_media: FetchMedia = fetch_by_entry_point,
        max_models: int = 4,
        handler: type[ShoutHandler] = ShoutHandler,
    ) -> None:
        self.models = KnownModels(
            directory,
            ResolvedModel("plain", "1", "s3://bucket/plain", {}),
            ResolvedModel("tagged", "3", "s3://bucket/tagged", {"task": "shout", "engine": "shouter"}),
            ResolvedModel("other-task", "1", "s3://bucket/other", {"task": "asr", "engine": "shouter"}),
            ResolvedModel("other-engine", "1", "s3://bucket/other", {"task": "shout", "engine": "ollama"}),
        )
        self.engine = ShoutEngine()
        self.engines = EngineRegistry()
        self.engines.register("shouter", lambda config: self.engine)
        handlers = HandlerRegistry()
        handlers.register_handler_manually("shout", "shout", handler)
        self.told: list[tuple[str, str]] = []
        self.manager = InferenceManager(
            models=self.models,
            cache=ModelCache(max_models, MemoryBudget(1000)),
            engines=self.engines,
            handlers=handlers,
            fetch_media=fetch_media,
            on_model=lambda kind, model, details: self.told.append((kind, model.key)),
        )

    def infer(self, data: Any, **changes: Any) -> dict[str, Any]:
        request = {"task": "shout", "engine": "shouter", "model_name": "tagged", "data": data, **changes}
        return self.manager.infer(**request)

    def error_of(self, data: Any, **changes: Any) -> dict[str, Any]:
        result = self.infer(data, **changes)
        assert result["success"] is False
        assert result["result"] is None
        error: dict[str, Any] = result["error"]
        return error


def prepare(bench: Bench, text: str, **changes: Any) -> Job:
    """Return a request to shout `text`, prepared by the manager."""
    request = {
        "task": "shout",
        "engine": "shouter",
        "model_name": "tagged",
        "data": {"text": text},
        **changes,
    }
    return prepared_job(bench.manager, **request)
