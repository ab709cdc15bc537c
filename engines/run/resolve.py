"""Checks a request, and says which handler, engine and model version answer it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from engines.models.model_manager import ModelManager
from engines.models.resolved_model import check_tags, key_of
from engines.registry import EngineRegistry
from engines.run.checks import check_engine, check_names, engine_of
from engines.run.prepared import Prepared
from engines.run.stages import stage_failed
from engines.versions.model_swap import ModelSwaps
from handlers.base import BaseModelHandler, with_options_in_data
from handlers.errors import InferenceError
from handlers.options.options import validate_options
from handlers.options.spec import NO_BOUNDS, Bounds


class Handlers(Protocol):
    """The part of the handler registry that is used here."""

    def get(self, task: str) -> BaseModelHandler: ...


class Admission:
    """Lets in the requests that can be answered. Thread-safe; `admit` blocks where the registry is to be asked."""

    def __init__(
        self,
        *,
        handlers: Handlers,
        engines: EngineRegistry,
        models: ModelManager,
        swaps: ModelSwaps,
        bounds: Bounds,
    ) -> None:
        """`bounds` are the largest values of options, for every engine; each engine adds its own."""
        self._bounds = bounds
        self._handlers = handlers
        self._engines = engines
        self._models = models
        self._swaps = swaps

    def admit(
        self,
        *,
        task: str,
        engine: str,
        model_name: str,
        data: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Return the request with all that is to answer it, checked but for its inputs, the cheap checks first.

        Of `data` only options that stand there are looked at. Asks the registry where the name has not been
        resolved lately. An empty `engine` is the one that the model's tags name.

        Raises:
            InferenceError: any kind of handlers.errors about task, engine, options and model; nothing else.
        """
        started = time.perf_counter()
        try:
            check_names(task, engine, model_name)
            handler = self._handlers.get(task)
            found = None
            if not engine:
                found = self._swaps.resolve(model_name)
                engine = engine_of(found.model)
            runner = self._engines.get(engine)
            check_engine(runner, engine, task)
            bounds = (
                {**self._bounds, **runner.option_bounds} if options or handler.options_in_data else NO_BOUNDS
            )
            checked = validate_options(options, task_options=handler.options, engine=engine, bounds=bounds)
            if handler.options_in_data:
                checked = with_options_in_data(handler, checked, data, engine, bounds)
            model, claim = found or self._swaps.resolve(model_name)
            check_tags(model, task=task, engine=engine)
            key = key_of(engine, task, model.id)
            batch_key = (*key, runner.batch_key(checked))
            most_cost = float(runner.max_cost(task))
        except InferenceError:
            raise
        except BaseException as error:
            raise stage_failed("admit", task, error) from error
        prepared = Prepared(task, engine, model, handler, runner, checked, key, batch_key, claim, most_cost)
        prepared.timings["resolve"] = time.perf_counter() - started
        return prepared

    def admits_at_once(self, engine: str, model_name: str) -> bool:
        """Return whether `admit` takes microseconds: it has nothing to ask, to import or to wait for."""
        if not self._models.is_fresh(model_name):
            return False
        if not engine:
            known = self._models.known(model_name)
            engine = (known and known.engine) or ""
        return not engine or self._engines.is_made(engine)
