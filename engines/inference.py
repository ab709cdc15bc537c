"""InferenceManager: answers requests with the models of the registry."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Self, cast

from engines.base import PullProgress
from engines.cache.cached_model import cached_models
from engines.cache.loader import ModelListener
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import ModelCache
from engines.config.settings import EngineSettings
from engines.configuration import load
from engines.deadlines import USUAL_PRIORITY, Deadline
from engines.guard import Guard
from engines.lease import Lease
from engines.log_context import RequestName
from engines.models.hub import WantedFiles
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ANY_TASK, ResolvedModel, VersionId
from engines.registry import EngineRegistry, PullListener
from engines.run.direct_call import DirectCall, FetchMedia, fetch_by_entry_point
from engines.run.executor import Execution
from engines.run.health import HealthProbes, Probe
from engines.run.job import Job
from engines.run.outcomes import Outcomes
from engines.run.resolve import RequestResolver, check_engine
from engines.run.statistics import Statistics
from engines.versions.versions import Versions
from handlers.decoding.children.memory import trim
from handlers.errors import ModelMismatch
from handlers.registry import HandlerRegistry, model_registry
from handlers.settings import LimitSettings


class InferenceManager:
    """Answers requests with the models of the registry; `infer` takes one through all stages. Thread-safe; every method
    blocks, so an event loop calls it from worker threads. A pipeline that fetches and batches by itself uses `resolver`
    and `execution`; what it calls under `guard` is abandoned if it hangs."""

    def __init__(
        self,
        *,
        models: ModelManager,
        cache: ModelCache,
        engines: EngineRegistry,
        handlers: HandlerRegistry,
        fetch_media: FetchMedia = fetch_by_entry_point,
        on_model: ModelListener | None = None,
        idle_unload_s: float | None = None,
        limits: LimitSettings | None = None,
        guard: Guard | None = None,
    ) -> None:
        """`fetch_media` fetches the media of a Python call, by default local paths only under media.allowed_roots.
        `idle_unload_s`: how long a model stays in memory without requests; None: until its room is needed."""
        self.models = models
        self.cache = cache
        self.engines = engines
        self.handlers = handlers
        self.statistics = Statistics()
        self.outcomes = Outcomes(self.statistics)
        self._probes = HealthProbes()
        self.guard = guard = guard or Guard()
        self.execution = Execution(cache, models, on_model, guard)
        self._versions = Versions(
            models=models, cache=cache, load=self._load, idle_unload_s=idle_unload_s, on_model=on_model
        )
        self.resolver = RequestResolver(
            handlers=handlers,
            engines=engines,
            models=models,
            versions=self._versions,
            bounds=(limits or LimitSettings()).bounds,
        )
        self._direct = DirectCall(self.resolver, self.execution, fetch_media, self.outcomes, guard)

    @classmethod
    def from_settings(
        cls,
        settings: EngineSettings,
        *,
        handlers: HandlerRegistry | None = None,
        models: ModelManager | None = None,
        fetch_media: FetchMedia = fetch_by_entry_point,
        on_model: ModelListener | None = None,
        on_pull: PullListener | None = None,
        guard: Guard | None = None,
    ) -> Self:
        """Return a new manager, which connects to and loads nothing before the first request. Without `handlers` it
        serves the tasks of `model_registry`, under these limits. `guard` says how long engines may be silent."""
        guard = guard or Guard()
        if handlers is None:
            model_registry.configure(settings.media)
            handlers = model_registry
        allowed = settings.transformers
        wanted = WantedFiles(pickle=allowed.allow_pickle, code=allowed.trust_remote_code)
        return cls(
            models=models or ModelManager(settings.mlflow, settings.cache, wanted=wanted),
            cache=ModelCache(
                settings.cache.max_models,
                MemoryBudget(settings.cache.max_bytes, settings.cache.max_gpu_bytes),
            ),
            engines=EngineRegistry(settings, _sign_of_life(guard, on_pull)),
            handlers=handlers,
            fetch_media=fetch_media,
            on_model=on_model,
            idle_unload_s=settings.cache.idle_unload_s,
            limits=settings.limits,
            guard=guard,
        )

    def infer(
        self,
        *,
        task: str,
        engine: str = "",
        model_name: str,
        data: dict[str, Any],
        options: Mapping[str, Any] | None = None,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline: Deadline = None,
        priority: int = USUAL_PRIORITY,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Answer one request and return its result: `success` with `result`, or not, with `error`.

        Never raises for a failed inference. Works inside a running event loop as well, which it blocks. Without
        `engine` the model's tags name it. `deadline` (RFC 3339 or seconds since the epoch) and `timeout` (seconds
        from now) end the call with DEADLINE_EXCEEDED, whichever comes first; `priority` 9 is the most urgent.
        """
        job = Job(
            name=RequestName(secrets.token_hex(16) if id is None else id, task, model_name),
            task=task,
            engine_name=engine,
            data=data,
            options=cast("dict[str, Any]", {} if options is None else options),  # checked by `resolve`
            metadata=metadata,
        )
        return self._direct.infer(job, deadline=deadline, priority=priority, timeout=timeout).as_dict()

    def warm(self, model_name: str) -> None:
        """Load a model for the tasks and the engine that its tags name, as its first request would.

        From then on it stays in memory without requests. If its name moves to another version, that one is loaded as
        well.

        Raises:
            ModelMismatch: permanent; its tags name no task or no engine.
            InferenceError: what resolving and loading raise of that tree.
        """
        warmed: VersionId | None = None
        while (model := self._versions.resolve(model_name, is_warm=True).model).id != warmed:
            if not model.tasks or not model.engine:
                raise ModelMismatch(
                    f"model {model.key} cannot be loaded ahead: its tags name no "
                    f"{'engine' if model.tasks else 'task'}; register it with the tags task and engine"
                )
            for task in model.tasks:
                self._load(model.engine, task, model).release()
            warmed = model.id

    def health_check(self) -> dict[str, Any]:
        """Return {"status": ok | degraded | error, "components": {mlflow, engines, cache, disk, calls}} within 2 s:
        `error` where no request can be answered, `degraded` where some cannot, or only those whose model is in memory.
        It makes no engine that has no settings."""
        engines, stuck = self.engines, self.guard.stuck
        asked = {*engines.made(), *engines.configured()}
        by_name = {f"engines.{name}": lambda name=name: engines.get(name).health() for name in asked}
        probes: dict[str, Probe] = {"mlflow": self.models.health, "disk": self.models.files.health, **by_name}
        answers = self._probes.probe(probes)
        by_engine = {name: answers.get(f"engines.{name}", {"status": "ok", "made": False}) for name in engines.names()}
        work = [answer["status"] == "ok" for answer in by_engine.values()]
        of_engines = "ok" if all(work) else "degraded" if any(work) else "error"
        components: dict[str, dict[str, Any]] = {
            "mlflow": answers["mlflow"],
            "engines": {"status": of_engines, "engines": by_engine},
            "cache": {"status": "ok", "models": len(self.cache.entries()), "bytes": self.cache.bytes},
            "disk": answers["disk"],
            "calls": {"status": "error" if stuck else "ok", "stuck": stuck},
        }
        is_well = all(part["status"] == "ok" for part in components.values())
        status = "error" if of_engines == "error" else "ok" if is_well else "degraded"
        return {"status": status, "components": components}

    def get_stats(self) -> dict[str, Any]:
        """Return the counts and latencies since the start; `cache_hit_rate` runs from 0 to 1."""
        hits, misses = self.cache.hits, self.cache.misses
        return {
            **self.statistics.snapshot(),
            "cache_hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "cache_hits": hits,
            "cache_misses": misses,
            "cached_models": len(self.get_cached_models()),
            "stuck_calls": self.guard.stuck,
            "given_up_calls": self.guard.timeouts,
        }

    def get_cached_models(self) -> list[dict[str, Any]]:
        """Return the models in memory, each as a dict: engine, task (the first it was loaded for; "*" for any), tasks,
        model_name, version, device, bytes, hits, leases, and in seconds age_s since the load and idle_s since the last
        use."""
        return cached_models(self.cache.entries())

    def clear_cache(self, *, include_warm: bool = False) -> dict[str, Any]:
        """Unload every model that is not in use; those of `worker.warm` only with `include_warm`. Returns {"cleared":
        how many, "in_use": [models in use], "kept": [warm models]}."""
        warm = set[VersionId]() if include_warm else self._versions.warm_versions()
        cleared = self.cache.clear(keep=lambda key: key.model in warm)
        if cleared:
            trim()
        left = [(f"{row['model_name']}/{row['version']}", row["leases"]) for row in self.get_cached_models()]
        return {
            "cleared": cleared,
            "in_use": [name for name, leases in left if leases],
            "kept": [name for name, leases in left if not leases],
        }

    def close(self) -> None:
        """Unload all models and close the engines; call it when no request is under way any more."""
        self.outcomes.tell_left_out()
        self._versions.close()
        self.cache.clear()
        self.engines.unload()
        self.guard.close()

    def _load(self, engine: str, task: str, model: ResolvedModel) -> Lease:
        made = self.engines.get(engine)
        if task != ANY_TASK:
            check_engine(made, engine, task)
        return self.execution.load(task, engine, model, made)


def _sign_of_life(guard: Guard, listener: PullListener | None) -> PullListener:
    """Return a listener that counts the progress of a download as a sign of life of the engine's server."""

    def hear(engine: str, progress: PullProgress) -> None:
        guard.sign(engine)
        if listener is not None:
            listener(engine, progress)

    return hear


_lock = threading.RLock()


def default(name: str) -> InferenceManager | ModelManager:
    """Return `inference_manager` or `model_manager` of this process; made once, whichever thread asks first."""
    with _lock:
        manager = _inference_manager()
    return manager.models if name == "model_manager" else manager


@cache
def _inference_manager() -> InferenceManager:
    # Its callers may read what the process may, so local paths are trusted.
    fetch = partial(fetch_by_entry_point, trust_local_paths=True)
    return InferenceManager.from_settings(load(EngineSettings).settings, fetch_media=fetch)
