"""Lists tasks with their engines, fields and options, and the registered models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engines.inference import InferenceManager
from handlers.errors import InferenceError
from handlers.options.options import OPTIONS
from handlers.options.spec import OptionSpec, schema_of


def task_listing(manager: InferenceManager, tasks: Iterable[str]) -> dict[str, Any]:
    """Return {"tasks": [...], "unavailable": {name: why}}; blocks while engines are imported.

    A task has its name, engines, media fields, options and their JSON Schema. Tasks and engines whose libraries are
    missing are under `unavailable`.
    """
    unavailable: dict[str, str] = {}
    engines: dict[str, frozenset[str]] = {}
    for name in manager.engines.names():
        try:
            engines[name] = manager.engines.supported_tasks(name)
        except InferenceError as error:
            unavailable[name] = error.message
    listed = []
    for task in tasks:
        try:
            handler = manager.handlers.get(task)
        except InferenceError as error:
            unavailable[task] = error.message
            continue
        options = OPTIONS if handler.options is None else handler.options
        listed.append(
            {
                "task": task,
                "engines": [name for name, supported in engines.items() if not supported or task in supported],
                "media_fields": list(handler.media_fields),
                "options": [_option(spec) for spec in options.values()],
                "options_schema": schema_of(options, title=f"options of {task}", others_pass=handler.options is None),
            }
        )
    return {"tasks": listed, "unavailable": unavailable}


def model_listing(manager: InferenceManager) -> dict[str, Any]:
    """Return {"models": [...], "cached": [...]}: registered models, and models in memory; blocks.

    Raises:
        RegistryUnavailable: retryable.
    """
    models = [
        {
            "model_name": model.name,
            "version": model.version,
            "tasks": list(model.tasks),
            "engine": model.engine,
            "tags": dict(model.tags),
        }
        for model in manager.models.list_models()
    ]
    return {"models": models, "cached": manager.get_cached_models()}


def _option(spec: OptionSpec) -> dict[str, Any]:
    names = ("name", "kind", "allowed", "minimum", "maximum", "choices", "engines", "description")
    return {**{name: getattr(spec, name) for name in names}, "also": dict(spec.engine_names)}
