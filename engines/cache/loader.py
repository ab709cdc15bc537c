"""Loads and unloads one model for the cache, and calls listeners."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engines.base import BaseEngine
from engines.cache.cached_model import Loaded
from engines.cache.model_cache import MakeRoom
from engines.guard import Guard
from engines.lease import Lease
from engines.log_context import failures_logged
from engines.models.model_files import ModelFiles
from engines.models.resolved_model import ANY_TASK, ModelKey, ResolvedModel, Use, key_of
from handlers.errors import InferenceError, ModelLoadFailed, is_out_of_memory, out_of_memory
from handlers.logger import get_logger
from handlers.signals import is_of_a_signal

log = get_logger(__name__)

T = TypeVar("T")

ModelListener = Callable[[str, ResolvedModel, Mapping[str, Any]], None]
"""Called with an event, the model, and details that always include `engine` and `task`.

`model_loaded` and `model_evicted` come with {seconds, bytes}, once for weights that several tasks share;
`model_swapped`, about the new version, with {name, previous_version, seconds}; `model_swap_failed`, about the version
that did not load, with {name, current_version, error_code, error, retry_in_s}. `name` is the model_name of requests.
"""


def tell(listener: ModelListener | None, kind: str, model: ResolvedModel, use: Use, **more: Any) -> None:
    """Log an event about a model and call the listener, if there is one; never raises."""
    engine, task = use
    write = log.error if "error" in more else log.info
    write(kind, model=model.key, engine=engine, task=task, **more)
    if listener is not None:
        with failures_logged(log, "model_listener_failed", kind=kind, model=model.key):
            listener(kind, model, {"engine": engine, "task": task, **more})


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """How one model is loaded for one task. The cache keeps it as long as the model, so it refers to no request."""

    engine_name: str
    task: str
    model: ResolvedModel
    engine: BaseEngine
    files: ModelFiles
    on_model: ModelListener | None = None
    guard: Guard = field(default_factory=Guard)

    @property
    def key(self) -> ModelKey:
        """The key of the model in the cache."""
        return key_of(self.engine_name, self.task if self.engine.loads_by_task else ANY_TASK, self.model.id)

    def load(self, make_room: MakeRoom) -> Loaded:
        """Return the loaded model; its files count as in use until `unload`.

        Room is made for it when its files are here, unless another server holds the model.

        Raises:
            InferenceError: what `ModelFiles.acquire`, `make_room` and `load_model` raise of that tree.
            OutOfMemory: retryable; memory ran out.
            InferenceTimeout: retryable; the engine hangs.
            EngineUnavailable: retryable; too many calls hang already, so nothing is loaded any more.
            ModelLoadFailed: permanent; whatever else `load_model` raises.
        """
        self.guard.check()
        started = time.perf_counter()
        details: dict[str, Any] = {"task": self.task, "version": self.model.version, "tags": dict(self.model.tags)}
        late: list[Loaded] = []
        taken = Lease(None, lambda: self._undo(details, late))
        try:
            expected = self._call("the load of", lambda: self._expected_size(details), taken)
            if expected is None:
                make_room(0, "")
            elif expected[0]:
                make_room(*expected)
            loaded = self._call("the load of", lambda: self._load(details, late), taken)
        except BaseException as error:
            taken.release()
            if isinstance(error, InferenceError) or is_of_a_signal(error):
                raise
            log.exception("load_failed", engine=self.engine_name, model=self.model.key)
            if is_out_of_memory(error):
                raise out_of_memory(
                    f"as engine {self.engine_name} loaded {self.model.key}",
                    "let fewer models stay in memory (cache.max_bytes)",
                ) from error
            raise ModelLoadFailed(
                f"engine {self.engine_name} cannot load {self.model.key}: {type(error).__name__}: {error}"
            ) from error
        if not self.engine.is_shared(loaded.model):
            self._tell("model_loaded", time.perf_counter() - started, loaded.bytes)
        return loaded

    def unload(self, loaded: Any) -> None:
        """Free the model's memory and release its files."""
        started = time.perf_counter()
        try:
            size, is_shared = self._bytes_of(loaded), self.engine.is_shared(loaded)
            self._call("the unload of", lambda: self.engine.unload_model(loaded))
        finally:
            self._release_files()
        if not is_shared:
            self._tell("model_evicted", time.perf_counter() - started, size)

    def _expected_size(self, details: dict[str, Any]) -> tuple[int, str] | None:
        """Return the engine's expectation for the model, whose files are here by now."""
        if self.engine.needs_files:
            details["path"] = self.files.acquire(self.model)
        return self.engine.expected_size(self.model.name, **details)

    def _call(self, what: str, call: Callable[[], T], holding: Lease | None = None) -> T:
        """Run a call of the engine under the guard, and return its result."""
        return self.guard.call(
            f"{what} {self.key}",
            self.guard.patience.of(self.task, self.model.name),
            call,
            holding=holding,
            alive_at=lambda: max(self.files.last_sign(self.model), self.guard.last_sign(self.engine_name)),
        )

    def _load(self, details: Mapping[str, Any], late: list[Loaded]) -> Loaded:
        """Return the model with its size; where that cannot be determined it is unloaded again."""
        engine = self.engine
        model = engine.load_model(self.model.name, **details)
        try:
            size = engine.model_bytes(model)
            loaded = Loaded(
                model,
                size,
                engine.model_device(model),
                engine.shared_memory(model),
                is_elsewhere=not engine.needs_files and size == 0,
            )
        except BaseException:
            engine.unload_model(model)
            raise
        late.append(loaded)
        return loaded

    def _undo(self, details: Mapping[str, Any], late: list[Loaded]) -> None:
        """Release the files of a failed load, and the model if the load succeeds later."""
        try:
            for loaded in late:
                self.engine.unload_model(loaded.model)
        finally:
            if "path" in details:
                self._release_files()

    def _bytes_of(self, model: Any) -> int:
        """Return the size of a model to unload, 0 where it is not known any more: it is unloaded in any case."""
        try:
            return self.engine.model_bytes(model)
        except BaseException as error:
            if is_of_a_signal(error):
                raise
            log.exception("model_not_measured", engine=self.engine_name, model=self.model.key)
            return 0

    def _release_files(self) -> None:
        if self.engine.needs_files:
            self.files.release(self.model)

    def _tell(self, kind: str, seconds: float, size: int) -> None:
        use = (self.engine_name, self.task)
        tell(self.on_model, kind, self.model, use, seconds=seconds, bytes=size)
