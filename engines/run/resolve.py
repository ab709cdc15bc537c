"""Checks a request, and finds the handler, engine and model version that answer it."""

from __future__ import annotations

import time
from typing import Any

from engines.base import BaseEngine
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel, check_tags, key_of
from engines.registry import EngineRegistry
from engines.run.job import Job
from engines.run.stages import stage_failed
from engines.versions.versions import Versions
from handlers.base import with_options_in_data
from handlers.errors import InferenceError, InvalidRequest
from handlers.options.options import validate_options
from handlers.options.spec import NO_BOUNDS, Bounds
from handlers.registry import HandlerRegistry


class RequestResolver:
    """Resolves requests. Thread-safe; `resolve` blocks where the registry must be asked."""

    def __init__(
        self,
        *,
        handlers: HandlerRegistry,
        engines: EngineRegistry,
        models: ModelManager,
        versions: Versions,
        bounds: Bounds,
    ) -> None:
        """`bounds` are the largest values of options, for every engine; each engine adds its own."""
        self._bounds = bounds
        self._handlers = handlers
        self._engines = engines
        self._models = models
        self._versions = versions

    def resolve(self, job: Job) -> None:
        """Find the handler, engine and model version of a job, with everything checked but its inputs, cheap checks
        first.

        Of `data` only options in it are read. Asks the registry where the name was not resolved lately. An empty
        `engine` means the one in the model's tags.

        Raises:
            InferenceError: any kind of handlers.errors about task, engine, options and model; nothing else.
        """
        started = time.perf_counter()
        task, name, model_name, options = job.task, job.engine_name, job.name.model_name, job.options
        try:
            _check_names(task, name, model_name)
            handler = self._handlers.get(task)
            found = None
            if not name:
                found = self._versions.resolve(model_name)
                name = _engine_of(found.model)
            engine = self._engines.get(name)
            check_engine(engine, name, task)
            bounds = {**self._bounds, **engine.option_bounds} if options or handler.options_in_data else NO_BOUNDS
            checked = validate_options(options, task_options=handler.options, engine=name, bounds=bounds)
            if handler.options_in_data:
                checked = with_options_in_data(handler, checked, job.data, name, bounds)
            model, claim = found or self._versions.resolve(model_name)
            check_tags(model, task=task, engine=name)
            key = key_of(name, task, model.id)
            batch_key = (*key, engine.batch_key(checked))
            most_cost = float(engine.max_cost(task))
        except InferenceError:
            raise
        except BaseException as error:
            raise stage_failed("resolve", task, error) from error
        job.timings["resolve"] = time.perf_counter() - started
        job.engine_name, job.engine, job.model, job.claim, job.handler = name, engine, model, claim, handler
        job.lane_key, job.batch_key, job.most_cost, job.options = key, batch_key, most_cost, checked

    def resolves_at_once(self, job: Job) -> bool:
        """Return whether `resolve` takes microseconds: it need not ask, import or wait."""
        model_name, engine = job.name.model_name, job.engine_name
        if not self._models.is_fresh(model_name):
            return False
        if not engine:
            known = self._models.known(model_name)
            engine = (known and known.engine) or ""
        return not engine or self._engines.is_made(engine)


def _check_names(task: Any, engine: Any, model_name: Any) -> None:
    """Raise InvalidRequest (permanent) unless the names of a request are texts; `engine` may be empty."""
    for name, value in (("task", task), ("engine", engine), ("model_name", model_name)):
        if not isinstance(value, str) or not (value or name == "engine"):
            raise InvalidRequest(f"{name} must be a text that is not empty; got {type(value).__name__} {value!r:.60}")


def check_engine(engine: BaseEngine, name: str, task: str) -> None:
    """Raise InvalidRequest (permanent), with the tasks that the engine runs, where `task` is none of them."""
    if engine.supported_tasks and task not in engine.supported_tasks:
        runs = ", ".join(sorted(engine.supported_tasks))
        raise InvalidRequest(f"engine {name} does not run task {task}; it runs {runs}")


def _engine_of(model: ResolvedModel) -> str:
    """Return the engine of a request that names none, or raise InvalidRequest where the model's tags name none."""
    if not model.engine:
        raise InvalidRequest(
            f"engine is left out, and the tags of model {model.key} name none; write engine in the request, or "
            "register the model with the tag engine"
        )
    return model.engine
