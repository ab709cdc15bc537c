"""Loaded models in memory: one load per model, least recently used out first, none taken from its user."""

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

__all__ = ["Lease", "Load", "Loaded", "MakeRoom", "ModelCache", "Unload"]

log = get_logger(__name__)

MakeRoom = Callable[[int, str], None]
"""Makes room for bytes on that device, 0 and "" where nobody knows; ModelLoadFailed where they would not fit alone."""
Load = Callable[[MakeRoom], Loaded]
"""Loads a model; has room made just before it takes memory here, and never where another server holds it."""
Unload = Callable[[Any], None]


class ModelCache:
    """Holds loaded models within a budget of bytes for each device, and of count where there is one.

    Thread-safe. Models are loaded and unloaded in the calling thread while no lock is held, so a slow load
    delays only those who asked for that model. A load that takes no memory yet, as its files are still on their
    way, makes no other model leave. A leased model is never unloaded: where every model is in use the cache goes
    over its budget, and shrinks back when leases end. A model that alone is larger than the budget is refused: it
    could not stay for the next request. Keys are whatever can be compared; their `str` is shown to people.
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
        """Whether something came, or counts again, since the budget was last seen to hold."""
        self.hits = self.misses = 0
        """Leases that caused no load, and those that did."""

    def lease(self, key: Hashable, load: Load, unload: Unload) -> Lease:
        """Return a lease on the model of `key` for exclusive use, loading it first where nobody has.

        `load` runs once however many threads wait; when it fails they all get its error, and the next lease
        tries again. Out of memory, it is called once more after the idle models beside it have left. Runs of one
        model never overlap: a second lease waits for the first to end, so a thread must not lease what it holds.

        Raises:
            ModelLoadFailed: permanent; the model alone takes more than the budget.
            EngineUnavailable: retryable; the thread that loaded the model was interrupted.
            Exception: whatever `load` raised.
        """
        entry = self._enter_alone(key, load, unload)
        return Lease(entry.model, lambda: self._release_alone(entry))

    def share(self, key: Hashable, load: Load, unload: Unload) -> Lease:
        """Return a lease on the model of `key` that overlaps with others, loading it first where nobody has.

        For models that take several calls at once. Otherwise as `lease`.
        """
        entry = self._enter(key, load, unload)
        return Lease(entry.model, lambda: self._release(entry))

    def hold(self, key: Hashable) -> Lease | None:
        """Return a lease on a model that is to be replaced, None where it is not loaded.

        Held, it stays until `retire`, and no longer counts against the budget: its successor takes its place.
        """
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

    def abandon(self, key: Hashable, gone: Callable[[], None] | None = None) -> None:
        """Let another load take the place of the model of `key`, since a call on it hangs.

        Who waits for it gets the next one. It is unloaded, and `gone` called, when its last lease ends after all.
        """
        with self._changed:
            entry = self._entries.get(key)
            if entry is not None and entry.state is State.READY:
                del self._entries[key]
                entry.is_abandoned, entry.gone = True, gone
                if entry.running.locked():
                    entry.running.release()  # in the place of the call that hangs
                self._changed.notify_all()
                return
        if gone is not None:
            gone()

    def retire(self, key: Hashable) -> bool:
        """Unload the model of `key` where nobody uses it but its holders; return whether it is gone."""
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
        """Unload the models that nobody used for `idle_s`, but those whose key is to `keep`; return how many."""
        before = self._clock() - idle_s
        return len(self._unload_idle_ones(lambda entry: entry.used_at <= before and not keep(entry.key)))

    def all_keys(self) -> list[Any]:
        """Return the keys of the models that are in memory or being loaded; not of those that leave."""
        with self._changed:
            return [entry.key for entry in self._entries.values() if entry.state is not State.LEAVING]

    def is_loaded(self, key: Hashable) -> bool:
        """Return whether a lease of `key` causes no load."""
        with self._changed:
            entry = self._entries.get(key)
            return entry is not None and entry.state is State.READY

    def clear(self, *, keep: Callable[[Any], bool] = lambda key: False) -> int:
        """Unload all models that nobody uses but those to `keep`; return how many. Those in use stay and are logged."""
        victims = self._unload_idle_ones(lambda entry: not keep(entry.key))
        with self._changed:
            in_use = [str(entry.key) for entry in self._entries.values() if entry.leases]
        if in_use:
            log.info("models_in_use_were_not_cleared", keys=in_use)
        return len({entry.memory for entry in victims})

    def entries(self) -> list[dict[str, Any]]:
        """Return the loaded models, least recently used first: key, memory (equal where several are the same bytes in
        memory), bytes, device, age_s, idle_s, hits, leases."""
        with self._changed:
            return [entry.described(self._clock()) for entry in self._ready()]

    def is_in_use(self) -> bool:
        """Return whether a model is leased or being loaded."""
        with self._changed:
            return any(entry.leases for entry in self._entries.values())

    @property
    def bytes(self) -> int:
        """Bytes of all models in memory, with those being unloaded, and being loaded where their size is known."""
        with self._changed:
            return sum(self._budget.taken(self._entries.values()).values())

    def _enter(self, key: Hashable, load: Load, unload: Unload) -> Entry:
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

    def _enter_alone(self, key: Hashable, load: Load, unload: Unload) -> Entry:
        """Return the entry of `key` as `_enter` does, once nobody else runs on it."""
        while True:
            entry = self._enter(key, load, unload)
            try:
                entry.running.acquire()
            except BaseException:
                self._leave(entry)
                raise
            if not entry.is_abandoned:
                return entry
            entry.running.release()  # for the next who waits
            self._leave(entry)

    def _join(self, key: Hashable, unload: Unload) -> tuple[Entry, bool]:
        """Count a lease on the entry of `key`, and say whether the caller has to load it."""
        with self._changed:
            # A model on its way out still holds its memory: loading it again has to wait until it is gone.
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
            return entry, is_loader

    def _load(self, entry: Entry, load: Load) -> None:
        try:
            loaded = self._load_with_room(entry, load)
            self._admit(entry, loaded)
        except BaseException as error:
            with self._changed:
                del self._entries[entry.key]
                self._changed.notify_all()  # the room that was made for it is free again
                entry.error = (
                    error
                    if isinstance(error, Exception)
                    else EngineUnavailable(f"loading {entry.key} was interrupted; send the request again")
                )
            entry.settled.set()
            raise
        with self._changed:
            entry.model, entry.bytes, entry.device = loaded.model, loaded.bytes, loaded.device
            if loaded.shared is not None and any(one.shared == loaded.shared for one in self._ready()):
                self.misses, self.hits = self.misses - 1, self.hits + 1  # another had loaded it
            entry.shared = loaded.shared
            entry.loaded_at = entry.used_at = self._clock()
            entry.state, entry.takes_memory = State.READY, not loaded.is_elsewhere
            self._may_exceed = True
        entry.settled.set()
        self._shrink()

    def _load_with_room(self, entry: Entry, load: Load) -> Loaded:
        """Call `load`, and once more where it ran out of memory and models beside it could make room."""
        make_room = partial(self._make_room, entry)
        try:
            return load(make_room)
        except OutOfMemory:
            with self._changed:
                if not any(one.is_idle or one.state is State.LEAVING for one in self._beside(entry)):
                    raise
            log.warning("load_ran_out_of_memory", key=str(entry.key), then="again without the idle models")
        # The error is gone by now, and with it the frames that kept alive what was loaded so far.
        self._unload_idle_ones(lambda one: one in self._beside(entry))
        with self._changed:
            self._changed.wait_for(lambda: not any(one.state is State.LEAVING for one in self._beside(entry)))
        return load(make_room)

    def _make_room(self, entry: Entry, size: int, device: str) -> None:
        """Count what is about to be loaded as there, unload idle models for it, and wait for those that leave
        already where their memory is needed."""
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

    def _admit(self, entry: Entry, loaded: Loaded) -> None:
        """Refuse what is larger than the budget, now that its size is certain, and unload it again."""
        try:
            self._budget.check(entry.key, loaded.bytes, loaded.device)
        except ModelLoadFailed:
            entry.let_go(loaded.model)
            raise

    def _leave(self, entry: Entry) -> bool:
        """End one lease, and return whether the budget may not hold."""
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
        """Unload idle models, least recently used first, until the budget holds or all others are in use."""
        with self._changed:
            victims, self._may_exceed = self._budget.excess(self._entries.values(), self.max_models)
            self._mark_leaving(victims)
        self._unload(victims)

    def _unload_idle_ones(self, is_victim: Callable[[Entry], bool]) -> list[Entry]:
        """Unload the idle models that are victims, and return their entries."""
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
            for entry in victims:  # an interrupt must not leave one behind that others wait for
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
