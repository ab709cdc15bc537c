"""The cache of loaded models: one load per model, the least recently used evicted first, none while in use."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from engines.cache.cached_model import Entry, Loaded, State, unload_in_a_thread
from engines.cache.memory_budget import MemoryBudget
from engines.lease import Lease
from handlers.errors import EngineUnavailable, ModelLoadFailed, OutOfMemory
from handlers.logger import get_logger

log = get_logger(__name__)

MakeRoom = Callable[[int, str], None]
"""Makes room for bytes on a device, (0, "") where they are not known; ModelLoadFailed where they would not fit alone.
"""
Load = Callable[[MakeRoom], Loaded]
"""Loads a model; calls `MakeRoom` just before it takes memory here, never where another server holds it."""
Unload = Callable[[Any], None]


class ModelCache:
    """Holds loaded models within a budget of bytes for each device, and of count where there is one.

    Thread-safe. Models are loaded and unloaded in the calling thread while no lock is held, so a slow load delays
    only callers of that model. A load evicts no model while it takes no memory, as its files are still downloaded. A
    leased model is never unloaded: where every model is in use the cache exceeds its budget, and shrinks when leases
    end. A model that alone exceeds the budget is refused: it could not stay for the next request. Keys are any
    comparable values; their `str` is shown to people.
    """

    def __init__(
        self, max_models: int | None, budget: MemoryBudget, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_models = max_models
        self._budget = budget
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()  # least recently used first
        self._may_exceed = False
        """Whether entries were added, or count again, since the last check of the budget."""
        self.hits = self.misses = 0
        """Leases without a load, and with one."""

    def lease(self, key: Hashable, load: Load, unload: Unload) -> Lease:
        """Return an exclusive lease on the model of `key`, loading it first where needed.

        `load` runs once however many threads wait; when it fails they all get its error, and the next lease tries
        again. Out of memory, it is called once more after idle models on that device were evicted. Runs of one model
        never overlap: a second lease waits for the first to end, so a thread must not lease what it holds.

        Raises:
            ModelLoadFailed: permanent; the model alone takes more than the budget.
            EngineUnavailable: retryable; the thread that loaded the model was interrupted.
            Exception: whatever `load` raised.
        """
        entry = self._enter_alone(key, load, unload)
        return Lease(entry.model, lambda: self._release_alone(entry))

    def share(self, key: Hashable, load: Load, unload: Unload) -> Lease:
        """As `lease`, but shared with other leases: for models that take several calls at once."""
        entry = self._enter(key, load, unload)
        return Lease(entry.model, lambda: self._release(entry))

    def hold(self, key: Hashable) -> Lease | None:
        """Return a lease on a model that is to be replaced, None where it is not loaded. It stays until `retire`, but
        does not count against the budget: its successor takes its place."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None or entry.state is not State.READY:
                return None
            entry.leases += 1
            entry.holds += 1

        def release() -> None:
            with self._changed:
                entry.holds -= 1
                self._may_exceed = True
            self._release(entry)

        return Lease(entry.model, release)

    def abandon(self, key: Hashable, model: Any, gone: Callable[[], None] | None = None) -> None:
        """Let another load replace `model`, as a call on it hangs, unless that has happened: waiting callers get the
        new one. The old one is unloaded, and `gone` called, when its last lease ends after all."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is not None and entry.state is State.READY and entry.model is model:
                del self._entries[key]
                entry.is_abandoned, entry.gone = True, gone
                if entry.running.locked():
                    entry.running.release()  # instead of the call that hangs
                self._changed.notify_all()
                return
        if gone is not None:
            gone()

    def retire(self, key: Hashable) -> bool:
        """Unload the model of `key` if only its holders use it; return whether it is gone."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None or entry.state is State.LEAVING:
                return True
            if entry.state is State.LOADING or entry.leases > entry.holds:
                return False
            self._mark_leaving([entry])
        self._unload([entry])
        return True

    def unload_idle(self, idle_s: float, *, keep: Callable[[Any], bool]) -> int:
        """Unload models that were not used for `idle_s`, except those to `keep`; return how many."""
        before = self._clock() - idle_s
        return len(self._unload_idle_ones(lambda entry: entry.used_at <= before and not keep(entry.key)))

    def all_keys(self) -> list[Any]:
        """Return the keys of models that are in memory or being loaded; not of those being unloaded."""
        with self._changed:
            return [entry.key for entry in self._entries.values() if entry.state is not State.LEAVING]

    def is_loaded(self, key: Hashable) -> bool:
        """Return whether a lease of `key` needs no load."""
        with self._changed:
            entry = self._entries.get(key)
            return entry is not None and entry.state is State.READY

    def clear(self, *, keep: Callable[[Any], bool] = lambda key: False) -> int:
        """Unload all models that are not in use, except those to `keep`; return how many. Those in use are logged."""
        victims = self._unload_idle_ones(lambda entry: not keep(entry.key))
        with self._changed:
            in_use = [str(entry.key) for entry in self._entries.values() if entry.leases]
        if in_use:
            log.info("models_in_use_were_not_cleared", keys=in_use)
        return len({entry.memory for entry in victims})

    def entries(self) -> list[dict[str, Any]]:
        """Return the loaded models, least recently used first, each as a dict.

        Keys: key, memory (equal where models share their bytes), bytes, device, age_s, idle_s, hits, leases.
        """
        with self._changed:
            return [entry.described(self._clock()) for entry in self._ready()]

    def is_in_use(self) -> bool:
        """Return whether a model is leased or being loaded."""
        with self._changed:
            return any(entry.leases for entry in self._entries.values())

    @property
    def bytes(self) -> int:
        """Bytes of all models in memory, including those being unloaded, and those being loaded where the size is
        known."""
        with self._changed:
            return sum(self._budget.taken(self._entries.values()).values())

    def _enter(self, key: Hashable, load: Load, unload: Unload) -> Entry:
        """Return the loaded entry of `key` with one more lease."""
        with self._changed:
            # A model that is being unloaded still holds its memory: loading it again has to wait.
            self._changed.wait_for(
                lambda: (found := self._entries.get(key)) is None or found.state is not State.LEAVING
            )
            entry = self._entries.get(key)
            is_loader = entry is None
            if entry is None:
                entry = self._entries[key] = Entry(key, unload)
                self.misses += 1
            else:
                self.hits += 1
                entry.hits += 1
            entry.leases += 1
            self._entries.move_to_end(key)
        try:
            if is_loader:
                self._load(entry, load)
            entry.settled.result()
        except BaseException:
            self._leave(entry)
            raise
        return entry

    def _enter_alone(self, key: Hashable, load: Load, unload: Unload) -> Entry:
        """As `_enter`, once no other lease runs on the entry."""
        while True:
            entry = self._enter(key, load, unload)
            try:
                entry.running.acquire()
            except BaseException:
                self._leave(entry)
                raise
            if not entry.is_abandoned:
                return entry
            entry.running.release()  # for the next caller
            self._leave(entry)

    def _load(self, entry: Entry, load: Load) -> None:
        try:
            loaded = self._load_with_room(entry, load)
            try:
                self._budget.check(entry.key, loaded.bytes, loaded.device)  # now that its size is known
            except ModelLoadFailed:
                entry.let_go(loaded.model)
                raise
        except BaseException as error:
            with self._changed:
                del self._entries[entry.key]
                self._changed.notify_all()  # frees the room that was made for it
            entry.settled.set_exception(
                error
                if isinstance(error, Exception)
                else EngineUnavailable(f"loading {entry.key} was interrupted; send the request again")
            )
            raise
        with self._changed:
            entry.model, entry.bytes, entry.device = loaded.model, loaded.bytes, loaded.device
            if loaded.shared is not None and any(one.shared == loaded.shared for one in self._ready()):
                self.misses, self.hits = self.misses - 1, self.hits + 1  # another caller had loaded it
            entry.shared = loaded.shared
            entry.loaded_at = entry.used_at = self._clock()
            entry.state, entry.takes_memory = State.READY, not loaded.is_elsewhere
            self._may_exceed = True
        entry.settled.set_result(None)
        self._shrink()

    def _load_with_room(self, entry: Entry, load: Load) -> Loaded:
        """Call `load`, and once more where it ran out of memory and evictions can make room."""
        make_room = partial(self._make_room, entry)
        try:
            return load(make_room)
        except OutOfMemory:
            with self._changed:
                if not any(one.is_idle or one.state is State.LEAVING for one in self._beside(entry)):
                    raise
            log.warning("load_ran_out_of_memory", key=str(entry.key), then="again without the idle models")
        # The error is freed by now, and with it the frames that hold what was loaded so far.
        self._unload_idle_ones(lambda one: one in self._beside(entry))
        with self._changed:
            self._changed.wait_for(lambda: not any(one.state is State.LEAVING for one in self._beside(entry)))
        return load(make_room)

    def _make_room(self, entry: Entry, size: int, device: str) -> None:
        """Count the coming model as present, evict idle models for it, and wait for unloads that free its room."""
        self._budget.check(entry.key, size, device)
        with self._changed:
            entry.bytes, entry.device, entry.takes_memory = size, device, True
            self._may_exceed = True
        self._shrink()
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not any(one.state is State.LEAVING for one in self._beside(entry))
                    or not self._budget.is_full(device, self._entries.values())
                )
            )

    def _ready(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.state is State.READY]

    def _beside(self, entry: Entry) -> list[Entry]:
        return self._budget.beside(entry, self._entries.values())

    def _leave(self, entry: Entry) -> bool:
        """End one lease, and return whether the budget may be exceeded."""
        with self._changed:
            entry.leases -= 1
            entry.used_at = self._clock()
            if self._entries.get(entry.key) is entry:
                self._entries.move_to_end(entry.key)
            is_left_over = entry.is_abandoned and entry.leases == 0
        if is_left_over:
            unload_in_a_thread(entry.drop)
        return self._may_exceed

    def _release_alone(self, entry: Entry) -> None:
        with self._changed:
            if not entry.is_abandoned:
                entry.running.release()
        if self._leave(entry):
            self._shrink()

    def _release(self, entry: Entry) -> None:
        if self._leave(entry):
            with self._changed:
                victims, _ = self._budget.excess(self._entries.values(), self.max_models)
            if victims:
                unload_in_a_thread(self._shrink)

    def _shrink(self) -> None:
        """Evict idle models, least recently used first, until the budget holds or all others are in use."""
        with self._changed:
            victims, self._may_exceed = self._budget.excess(self._entries.values(), self.max_models)
            self._mark_leaving(victims)
        self._unload(victims)

    def _unload_idle_ones(self, is_victim: Callable[[Entry], bool]) -> list[Entry]:
        """Unload the idle ones of the victims, and return their entries."""
        with self._changed:
            victims = [entry for entry in self._entries.values() if entry.is_idle and is_victim(entry)]
            self._mark_leaving(victims)
        self._unload(victims)
        return victims

    def _unload(self, victims: list[Entry]) -> None:
        try:
            for entry in victims:
                entry.let_go(entry.model)
                self._forget(entry)
        finally:
            for entry in victims:  # an interrupt must not leave one that others wait for
                self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        with self._changed:
            entry.model = None
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
                self._changed.notify_all()

    def _mark_leaving(self, victims: list[Entry]) -> None:
        for entry in victims:
            entry.state = State.LEAVING
