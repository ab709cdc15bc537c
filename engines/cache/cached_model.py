"""One entry of the cache: the loaded model, its leases and its state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from engines.log_context import failures_logged
from handlers.logger import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading a model."""

    model: Any
    bytes: int
    device: str = "cpu"
    """Where its weights are; `cuda:0` and the like count against the budget of that GPU, everything else as RAM."""
    shared: Hashable | None = None
    """Equal for models with the same bytes in memory; None for a model with its own."""
    is_elsewhere: bool = False
    """Whether another server holds it, so that it takes no memory here."""


class State(Enum):
    """The states between load and unload; an entry only moves forward."""

    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(slots=True, eq=False)
class Entry:
    """One model; every field is guarded by the cache's lock, except that `running` is another lock."""

    key: Hashable
    unload: Callable[[Any], None]
    state: State = State.LOADING
    settled: Future[None] = field(default_factory=Future)
    """Ends when it is loaded, with the error where that failed."""
    running: threading.Lock = field(default_factory=threading.Lock)
    model: Any = None
    bytes: int = 0
    device: str = ""
    """Empty until it is known."""
    takes_memory: bool = False
    """Whether its `bytes` are in use, or about to be: not while its files are downloaded or another server gets it."""
    shared: Hashable | None = None
    """As `Loaded.shared`."""
    loaded_at: float = 0.0
    used_at: float = 0.0
    hits: int = 0
    leases: int = 0
    is_abandoned: bool = False
    """Whether a call on it hangs: it gets no new leases, and another load replaces it."""
    gone: Callable[[], None] | None = None
    """Called when it was abandoned and is unloaded after all."""
    holds: int = 0
    """How many of the leases belong to callers that are about to replace the model."""

    @property
    def is_idle(self) -> bool:
        """Whether it is in memory and has neither leases nor holds."""
        return self.state is State.READY and self.leases == 0

    def described(self, now: float) -> dict[str, Any]:
        """Return its row in `ModelCache.entries`."""
        return {
            "key": self.key,
            "memory": id(self) if self.shared is None else self.shared,
            "bytes": self.bytes,
            "device": self.device,
            "age_s": now - self.loaded_at,
            "idle_s": 0.0 if self.leases else now - self.used_at,
            "hits": self.hits,
            "leases": self.leases,
        }

    @property
    def memory(self) -> Hashable:
        """Equal for entries that share their bytes."""
        return self if self.shared is None else self.shared

    @property
    def counts(self) -> bool:
        """Whether it counts against the budget: not before it takes memory, nor while it is unloaded or about to be
        replaced."""
        return self.takes_memory and self.state is not State.LEAVING and self.holds == 0

    def let_go(self, model: Any) -> None:
        """Unload the model; a failure is logged and no more."""
        # The request that caused it asked for another model, or none; it must not fail because of this one.
        with failures_logged(log, "unload_failed", key=str(self.key)):
            self.unload(model)

    def drop(self) -> None:
        """Unload an abandoned model that has no leases any more."""
        self.let_go(self.model)
        self.model = None
        if self.gone is not None:
            self.gone()


def unload_in_a_thread(unload: Callable[[], None]) -> None:
    """Start to unload in a separate thread: it may take long, and the caller may be what the model runs in."""
    try:
        threading.Thread(target=unload, name="unload models", daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        # The caller still has to return an answer; the next release or load unloads what is idle now.
        log.warning("unload_put_off", error=repr(error))


def cached_models(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per name and version of `ModelCache.entries()`, with all its tasks that share its bytes in
    memory."""
    rows: dict[Hashable, dict[str, Any]] = {}
    for entry in sorted(entries, key=lambda one: -one["age_s"]):
        key = entry["key"]
        names = {"engine": key.engine, "task": key.task, "tasks": [], "model_name": key.name, "version": key.version}
        numbers = {name: entry[name] for name in ("bytes", "device", "age_s", "idle_s")}
        row = rows.setdefault((entry["memory"], key.name, key.version), {**names, **numbers, "hits": 0, "leases": 0})
        row["tasks"].append(key.task)
        row["idle_s"] = min(row["idle_s"], entry["idle_s"])
        row["hits"] += entry["hits"]
        row["leases"] += entry["leases"]
    return sorted(rows.values(), key=lambda row: -row["idle_s"])
