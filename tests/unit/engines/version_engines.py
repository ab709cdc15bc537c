"""Engines that answer with the version of their model, and what tests do about versions."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from engines.base import NO_HURRY, Emit, Urgency
from engines.models.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed
from tests.unit.engines.parts import Bench, ShoutEngine

TAGS = {"task": "shout", "engine": "shouter"}


class VersionEngine(ShoutEngine):
    """Answers with the version of the loaded model; a model that was unloaded answers no more."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: Counter[str] = Counter()
        self.broken_versions: set[str] = set()
        self.while_loading: dict[str, Callable[[], None]] = {}
        self._counting = threading.Lock()

    def load_model(self, name: str, **kw: Any) -> Any:
        if kw["version"] in self.broken_versions:
            raise ModelLoadFailed("no weights")
        self.while_loading.get(kw["version"], lambda: None)()
        with self._counting:
            self.loads[f"{name}/{kw['version']}"] += 1
        return {"name": name, "version": kw["version"]}

    def infer(self, model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return {"shouted": model["version"]}

    def unload_model(self, model: Any) -> bool:
        model.clear()
        return True


class GrowingEngine(VersionEngine):
    """Takes requests as they come; each ends when the test says so."""

    continuous_tasks = frozenset({"shout"})

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[Any, Future[dict[str, Any]]]] = []

    def submit(
        self,
        model: Any,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        self.started.append((model, Future()))
        return self.started[-1][1]


def stand_for(bench: Bench, version: str) -> None:
    bench.models.models["tagged"] = ResolvedModel("tagged", version, f"s3://bucket/{version}", TAGS)


def versions_in_memory(bench: Bench) -> set[str]:
    return {row["version"] for row in bench.manager.get_cached_models() if row["model_name"] == "tagged"}
