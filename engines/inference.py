"""Routes a request to its handler, model and engine, runs it, and keeps the statistics."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, Self

import structlog

from engines.base import Emit
from engines.checks import check_data, check_engine, check_names, check_tags, check_texts
from engines.execution import Execution
from engines.health import HealthProbes, health_report
from engines.hub_files import WantedFiles
from engines.media_values import FetchMedia, MediaValues
from engines.memory_budget import MemoryBudget
from engines.model_cache import Lease, ModelCache
from engines.model_loading import ModelListener
from engines.model_swap import ModelSwaps
from engines.models import ModelManager
from engines.prepared import Outcome, Prepared, preprocessed, stage_failed
from engines.registry import EngineRegistry, PullListener
from engines.resolved_model import ResolvedModel
from engines.results import failure_result, success_result
from engines.settings import EngineSettings
from engines.statistics import Statistics
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError, InternalError, ModelMismatch
from handlers.options import validate_options
from handlers.options_in_data import with_options_in_data
from handlers.settings import MediaSettings

__all__ = ["Handlers", "InferenceManager", "ModelListener", "Outcome", "Prepared"]

log = structlog.get_logger(__name__)


class Handlers(Protocol):
    """The part of the handler registry that is used here."""

    def get(self, task: str) -> BaseModelHandler: ...


class InferenceManager:
    """Answers requests with the models of the registry.

    Thread-safe; every method blocks, so an event loop calls it from worker threads. `infer` is the whole way
    of one request; a pipeline that fetches and batches calls `admit`, `preprocess`, `execute`, `finish`.
    """

    def __init__(
        self,
        *,
        models: ModelManager,
        cache: ModelCache,
        engines: EngineRegistry,
        handlers: Handlers,
        media: MediaSettings,
        fetch_media: FetchMedia | None = None,
        trust_local_paths: bool = False,
        on_model: ModelListener | None = None,
        idle_unload_s: float | None = None,
        probes: HealthProbes | None = None,
    ) -> None:
        """`trust_local_paths` is for callers in this very process: every path it can read is accepted.

        `idle_unload_s`: how long a model stays in memory without requests; None: until its room is needed.
        """
        self.models = models
        self.cache = cache
        self.engines = engines
        self.handlers = handlers
        self.statistics = Statistics()
        self._media = MediaValues(media, fetch=fetch_media, trust_local_paths=trust_local_paths)
        self._execution = Execution(cache, models, on_model)
        self._swaps = ModelSwaps(
            models=models, cache=cache, load=self._load, idle_unload_s=idle_unload_s, on_model=on_model
        )
        self._probes = probes or HealthProbes()

    @classmethod
    def from_settings(
        cls,
        settings: EngineSettings,
        *,
        handlers: Handlers | None = None,
        models: ModelManager | None = None,
        fetch_media: FetchMedia | None = None,
        trust_local_paths: bool = False,
        on_model: ModelListener | None = None,
        on_pull: PullListener | None = None,
    ) -> Self:
        """Return a new manager; without `handlers` it serves the tasks of `model_registry`, under these limits.

        Nothing is connected to or loaded before the first request.
        """
        if handlers is None:
            from handlers import model_registry

            model_registry.configure(settings.media)
            handlers = model_registry
        return cls(
            models=models
            or ModelManager(settings.mlflow, settings.cache, wanted=WantedFiles.by(settings.transformers)),
            cache=ModelCache(
                settings.cache.max_models,
                MemoryBudget(settings.cache.max_bytes, settings.cache.max_gpu_bytes),
            ),
            engines=EngineRegistry(settings, on_pull),
            handlers=handlers,
            media=settings.media,
            fetch_media=fetch_media,
            trust_local_paths=trust_local_paths,
            on_model=on_model,
            idle_unload_s=settings.cache.idle_unload_s,
        )

    def admit(
        self,
        *,
        task: str,
        engine: str,
        model_name: str,
        data: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Check one request but for its inputs, the cheap checks first; of `data` only options that stand there.

        Asks the registry where the name has not been resolved lately.

        Raises:
            InferenceError: any kind of handlers.errors about task, engine, options and model; nothing else.
        """
        try:
            check_names(task, engine, model_name)
            handler = self.handlers.get(task)
            runner = self.engines.get(engine)
            check_engine(runner, engine, task)
            checked = validate_options(options, task_options=handler.options, engine=engine)
            if handler.options_in_data:
                checked = with_options_in_data(handler, checked, data, engine)
            version = self._swaps.resolve(model_name)
            check_tags(version.model, task=task, engine=engine)
            lane_key = (engine, version.model.key, task)
            batch_key = (*lane_key, runner.batch_key(checked))
        except InferenceError:
            raise
        except Exception as error:
            raise stage_failed("admit", task, error) from error
        return Prepared(
            task, engine, version.model, handler, runner, checked, lane_key, batch_key, version.claim
        )

    def admits_at_once(self, engine: str, model_name: str) -> bool:
        """Return whether `admit` takes microseconds: it has nothing to ask, to import or to wait for."""
        return self.engines.is_made(engine) and self.models.is_fresh(model_name)

    def preprocess(self, prepared: Prepared, data: dict[str, Any]) -> None:
        """Give `prepared` the inputs that its handler makes of `data`, whose media are here by now.

        Raises:
            InferenceError: any kind of handlers.errors about the data; nothing else.
        """
        started = time.perf_counter()
        try:
            check_data(data)
            prepared.inputs = preprocessed(prepared.handler, prepared.task, data, prepared.options)
            prepared.cost = prepared.runner.cost(prepared.task, prepared.inputs, prepared.options)
            prepared.most_cost = prepared.runner.max_cost(prepared.task)
        except InferenceError:
            raise
        except Exception as error:
            raise stage_failed("preprocess", prepared.task, error) from error
        finally:
            prepared.timings["preprocess"] = time.perf_counter() - started

    def prepare(
        self,
        *,
        task: str,
        engine: str,
        model_name: str,
        data: dict[str, Any],
        options: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Check one request, bring its media here and preprocess them.

        Raises:
            InferenceError: any kind of handlers.errors but those of running a model; nothing else.
        """
        admitted = self._admitted(task=task, engine=engine, model_name=model_name, data=data, options=options)
        return self._with_inputs(admitted, data)

    def execute(self, batch: Sequence[Prepared]) -> list[Outcome]:
        """Run requests of one `batch_key` together; one outcome per request, in order. Never raises.

        The model is loaded where it is not in memory, and stays leased until the engine is done.
        """
        return self._execution.run(batch)

    def start(self, prepared: Prepared, emit: Emit | None = None) -> Future[Outcome]:
        """Start one request whose `is_continuous`, beside those under way; blocks only to load its model.

        The future ends with the outcome, never with an exception; cancelling it stops the work. `emit` hears
        the answer piece by piece, in a thread of the engine.
        """
        return self._execution.start(prepared, emit)

    def is_loaded(self, prepared: Prepared) -> bool:
        """Return whether the model of `prepared` is in memory, so that it can run without a load."""
        return self._execution.is_loaded(prepared)

    def finish(self, prepared: Prepared, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the task's output for the engine's raw result.

        Raises:
            InternalError: permanent; the handler cannot read what the engine returned.
            InferenceError: whatever else the handler raises of that tree.
        """
        started = time.perf_counter()
        try:
            output = prepared.handler.postprocess(raw, prepared.options)
        except InferenceError:
            raise
        except Exception as error:
            raise stage_failed("postprocess", prepared.task, error) from error
        finally:
            prepared.timings["postprocess"] = time.perf_counter() - started
        if not isinstance(output, dict):
            raise InternalError(
                f"the handler of task {prepared.task} returned {type(output).__name__} from postprocess; it "
                "must return a dict"
            )
        metadata = output.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise InternalError(
                f"the handler of task {prepared.task} returned metadata that is no dict but "
                f"{type(metadata).__name__}"
            )
        return output

    def infer(
        self,
        *,
        task: str,
        engine: str,
        model_name: str,
        data: dict[str, Any],
        options: Mapping[str, Any] | None = None,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Answer one request and return its result: `success` with `result`, or not, with `error`.

        Never raises for a failed inference. Works inside a running event loop as well, which it blocks.
        """
        started = time.perf_counter()
        about: dict[str, Any] = {
            "task": str(task),
            "engine": str(engine),
            "model_name": str(model_name),
            "id": secrets.token_hex(16) if id is None else id,
            "metadata": metadata,
        }
        output: dict[str, Any] | None = None
        failure: InferenceError | None = None
        try:
            admitted = self._admitted(
                task=task, engine=engine, model_name=model_name, data=data, options=options
            )
            about.update(model_version=admitted.model.version, timings=admitted.timings)
            prepared = self._with_inputs(admitted, data)
            outcome = self.start(prepared).result() if prepared.is_continuous else self.execute([prepared])[0]
            if isinstance(outcome, InferenceError):
                failure = outcome
            else:
                output = self.finish(prepared, outcome)
        except InferenceError as error:
            failure = error
        about["processing_s"] = processing_s = time.perf_counter() - started
        self.statistics.record(
            about["task"],
            about["model_name"],
            about["engine"],
            failure is None,
            processing_s,
            about.get("timings"),
        )
        if failure is not None:
            return failure_result(error=failure, **about)
        return success_result(result=output or {}, **about)

    def _admitted(
        self, *, task: str, engine: str, model_name: str, data: Any, options: Mapping[str, Any] | None
    ) -> Prepared:
        """Check all of a request that can be told before its media are here."""
        check_data(data)
        check_texts("data", data)  # of a request that came as JSON they are known to be right
        check_texts("options", options)
        return self.admit(task=task, engine=engine, model_name=model_name, data=data, options=options)

    def _with_inputs(self, admitted: Prepared, data: dict[str, Any]) -> Prepared:
        """Bring the media in `data` here, and return the request with the inputs that its handler makes of them."""
        started = time.perf_counter()
        try:
            here = self._media.resolve(data, admitted.handler.media_fields)
        except InferenceError:
            raise
        except Exception as error:
            raise stage_failed("fetch", admitted.task, error) from error
        admitted.timings["fetch"] = time.perf_counter() - started
        self.preprocess(admitted, here)
        return admitted

    def warm(self, model_name: str) -> None:
        """Load a model for the tasks and the engine that its tags name, as its first request would.

        From then on it does not leave the memory for want of requests.

        Raises:
            ModelMismatch: permanent; its tags name no task or no engine.
            InferenceError: what resolving and loading raise of that tree.
        """
        model = self._swaps.resolve(model_name, is_warm=True).model
        if not model.tasks or not model.engine:
            raise ModelMismatch(
                f"model {model.key} cannot be loaded ahead: its tags name no "
                f"{'engine' if model.tasks else 'task'}; register it with the tags task and engine"
            )
        for task in model.tasks:
            self._load(model.engine, task, model).release()

    def health_check(self) -> dict[str, Any]:
        """Return {"status": ok | degraded | error, "components": {mlflow, engines, cache, disk}} within 2 s.

        `error` means that no request can be answered; `degraded` that some cannot, or only those whose model
        is at hand.
        """
        return health_report(self._probes, models=self.models, engines=self.engines, cache=self.cache)

    def get_stats(self) -> dict[str, Any]:
        """Return the counts and latencies since the start; `cache_hit_rate` runs from 0 to 1."""
        hits, misses = self.cache.hits, self.cache.misses
        return {
            **self.statistics.snapshot(),
            "cache_hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "cache_hits": hits,
            "cache_misses": misses,
            "cached_models": len(self.cache.entries()),
        }

    def get_cached_models(self) -> list[dict[str, Any]]:
        """Return the models in memory: engine, task, model_name, version, device, bytes, hits, leases, and in
        seconds age_s since the load and idle_s since the last use."""
        models = []
        for entry in self.cache.entries():
            engine, task, name, version = entry.pop("key").split("/")
            models.append({"engine": engine, "task": task, "model_name": name, "version": version, **entry})
        return models

    def clear_cache(self) -> dict[str, Any]:
        """Unload every model that nobody uses: {"cleared": how many, "in_use": [those that stay]}."""
        cleared = self.cache.clear()
        in_use = [
            f"{row['model_name']}/{row['version']}" for row in self.get_cached_models() if row["leases"]
        ]
        return {"cleared": cleared, "in_use": in_use}

    def close(self) -> None:
        """Unload all models and let the engines go; call it when no request is under way any more."""
        self._swaps.close()
        self.cache.clear()
        self.engines.unload()

    def _load(self, engine: str, task: str, model: ResolvedModel) -> Lease:
        runner = self.engines.get(engine)
        check_engine(runner, engine, task)
        return self._execution.load(task, engine, model, runner)
