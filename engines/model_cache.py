"""Loaded models in memory: one load per model, least recently used out first, none taken from its user."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import structlog

from handlers.errors import EngineUnavailable

log = structlog.get_logger(__name__)

Load = Callable[[], tuple[Any, int]]
Unload = Callable[[Any], None]


class _State(Enum):
    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(slots=True, eq=False)
class _Entry:
    """One model; every field is guarded by the cache's lock, except that `running` is a lock of its own."""

    key: str
    unload: Unload
    state: _State = _State.LOADING
    settled: threading.Event = field(default_factory=threading.Event)
    running: threading.Lock = field(default_factory=threading.Lock)
    model: Any = None
    bytes: int = 0
    error: Exception | None = None
    loaded_at: float = 0.0
    hits: int = 0
    leases: int = 0


class Lease:
    """The right to use one loaded model, shared with others who lease it; thread-safe.

    The model stays in memory until `release`, which every holder calls once; a second call does nothing.
    """

    def __init__(self, model: Any, release: Callable[[], None]) -> None:
        self.model = model
        self._release = release
        self._held = threading.Lock()
        self._held.acquire()

    def release(self) -> None:
        """End this use of the model; never blocks, so it may be called from any thread."""
        try:
            self._held.release()
        except RuntimeError:
            return
        self._release()


class ModelCache:
    """Holds loaded models within a budget of count and bytes.

    Thread-safe. Models are loaded and unloaded in the calling thread while no lock is held, so a slow load
    delays only those who asked for that model. A leased model is never unloaded: where every model is in use
    the cache goes over its budget, and shrinks back when leases end.
    """

    def __init__(
        self, max_models: int, max_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_models = max_models
        self.max_bytes = max_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._hits = 0
        self._misses = 0

    @contextmanager
    def lease(self, key: str, load: Load, unload: Unload) -> Iterator[Any]:
        """Yield the model of `key` for exclusive use, loading it first where nobody has.

        `load` returns the model and its size in bytes. It runs once however many threads wait; when it fails
        they all get its error, and the next lease tries again. Runs of one model never overlap: a second
        lease waits for the first to end, so a thread must not lease a key that it already holds.

        Raises:
            EngineUnavailable: retryable; the thread that loaded the model was interrupted.
            Exception: whatever `load` raised.
        """
        entry = self._enter(key, load, unload)
        try:
            with entry.running:
                yield entry.model
        finally:
            self._leave(entry)
            self._shrink()

    def share(self, key: str, load: Load, unload: Unload) -> Lease:
        """Return a lease on the model of `key` that overlaps with others, loading it first where nobody has.

        For models that take several calls at once. Otherwise as `lease`.
        """
        entry = self._enter(key, load, unload)

        def release() -> None:
            self._leave(entry)
            if self._is_over_budget():
                # Unloading may take long, and who releases may be the very thread that the model runs in.
                threading.Thread(target=self._shrink, name="unload models", daemon=True).start()

        return Lease(entry.model, release)

    def clear(self) -> int:
        """Unload every model that nobody uses and return how many; those in use stay and are logged."""
        with self._changed:
            victims = [entry for entry in self._entries.values() if self._is_idle(entry)]
            in_use = [entry.key for entry in self._entries.values() if entry.leases]
            self._mark_leaving(victims)
        self._unload(victims)
        if in_use:
            log.info("models_in_use_were_not_cleared", keys=in_use)
        return len(victims)

    def entries(self) -> list[dict[str, Any]]:
        """Return the loaded models, least recently used first: key, bytes, age_s, hits, leases."""
        with self._changed:
            now = self._clock()
            return [
                {
                    "key": entry.key,
                    "bytes": entry.bytes,
                    "age_s": now - entry.loaded_at,
                    "hits": entry.hits,
                    "leases": entry.leases,
                }
                for entry in self._entries.values()
                if entry.state is _State.READY
            ]

    @property
    def hits(self) -> int:
        """Leases that caused no load."""
        with self._changed:
            return self._hits

    @property
    def misses(self) -> int:
        """Leases that caused a load."""
        with self._changed:
            return self._misses

    @property
    def bytes(self) -> int:
        """Bytes of all models in memory, those being unloaded included."""
        with self._changed:
            return self._total_bytes()

    def _enter(self, key: str, load: Load, unload: Unload) -> _Entry:
        """Return the entry of `key` with a lease counted on it and its model loaded."""
        entry, is_loader = self._join(key, unload)
        try:
            if is_loader:
                self._load(entry, load)
            else:
                entry.settled.wait()
                if entry.error is not None:
                    raise entry.error
        except BaseException:
            self._leave(entry)
            raise
        return entry

    def _join(self, key: str, unload: Unload) -> tuple[_Entry, bool]:
        """Count a lease on the entry of `key`, and say whether the caller has to load it."""
        with self._changed:
            # A model on its way out still holds its memory: loading it anew has to wait until it is gone.
            self._changed.wait_for(
                lambda: (found := self._entries.get(key)) is None or found.state is not _State.LEAVING
            )
            entry = self._entries.get(key)
            is_loader = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry(key, unload)
                self._misses += 1
            else:
                self._hits += 1
                entry.hits += 1
            entry.leases += 1
            self._entries.move_to_end(key)
            return entry, is_loader

    def _load(self, entry: _Entry, load: Load) -> None:
        try:
            self._shrink()  # by count, before the load needs the memory; by bytes once its size is known
            model, size = load()
        except BaseException as error:
            with self._changed:
                del self._entries[entry.key]
                entry.error = (
                    error
                    if isinstance(error, Exception)
                    else EngineUnavailable(f"loading {entry.key} was interrupted; send the request again")
                )
            entry.settled.set()
            raise
        with self._changed:
            entry.model, entry.bytes = model, size
            entry.loaded_at = self._clock()
            entry.state = _State.READY
        entry.settled.set()
        self._shrink()

    def _leave(self, entry: _Entry) -> None:
        with self._changed:
            entry.leases -= 1
            if self._entries.get(entry.key) is entry:
                self._entries.move_to_end(entry.key)

    def _is_over_budget(self) -> bool:
        with self._changed:
            staying = [entry for entry in self._entries.values() if entry.state is not _State.LEAVING]
            size = sum(entry.bytes for entry in staying)
            return len(staying) > self.max_models or size > self.max_bytes

    def _shrink(self) -> None:
        """Unload idle models, least recently used first, until the budget holds or all others are in use."""
        with self._changed:
            victims: list[_Entry] = []
            staying = [entry for entry in self._entries.values() if entry.state is not _State.LEAVING]
            count, size = len(staying), sum(entry.bytes for entry in staying)
            for entry in staying:
                if count <= self.max_models and size <= self.max_bytes:
                    break
                if self._is_idle(entry):
                    victims.append(entry)
                    count, size = count - 1, size - entry.bytes
            self._mark_leaving(victims)
        self._unload(victims)

    def _unload(self, victims: list[_Entry]) -> None:
        try:
            for entry in victims:
                try:
                    entry.unload(entry.model)
                except Exception:
                    # The caller asked for another model, or for none: this one's trouble is not theirs.
                    log.exception("unload_failed", key=entry.key)
                self._forget(entry)
        finally:
            for entry in victims:  # an interrupt must not leave one behind that others wait for
                self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        with self._changed:
            entry.model = None
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
                self._changed.notify_all()

    def _mark_leaving(self, victims: list[_Entry]) -> None:
        for entry in victims:
            entry.state = _State.LEAVING

    @staticmethod
    def _is_idle(entry: _Entry) -> bool:
        return entry.state is _State.READY and entry.leases == 0

    def _total_bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries.values())
