"""Decides which version of a model answers: the active one, until the next is loaded beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from engines.cache.loader import ModelListener, tell
from engines.cache.model_cache import ModelCache
from engines.lease import Lease
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ANY_TASK, ModelKey, ResolvedModel, Use, VersionId, check_tags
from engines.periodic_task import PeriodicTask
from engines.versions.active_version import ActiveVersion, State
from engines.versions.retirement import Claim, Retirement
from handlers.errors import InferenceError, ModelMismatch, UnknownModel, as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)

_LOOK_AGAIN_S = 0.1
"""How often a retired version that is still in use is checked."""
_CLOSE_S = 30.0

LoadModel = Callable[[str, str, ResolvedModel], Lease]
"""Loads a model for an engine and a task where it is not in memory, and returns a lease on it."""


class ClaimedVersion(NamedTuple):
    """The version that answers a request; keep `claim` for as long as the request is under way."""

    model: ResolvedModel
    claim: Claim


class Versions:
    """Resolves names to active versions, and replaces a version without an effect on requests.

    When the registry's answer for a name changes and the active version is in memory, the new version is loaded
    beside it in a separate thread, for the same engines and tasks, while the old one answers. Then the name moves to
    the new version: later requests get it, earlier ones are answered by the old version, which is unloaded when the
    last of them is done. If a version fails to load the old one stays active; it is tried again after a while, and at
    once when the registry names another. A name whose version is not in memory moves at once.

    Names whose model is in memory are looked up again without requests too, so a change takes effect within
    `alias_poll_s` and the time of the load. Thread-safe; `resolve` blocks only as `ModelManager.resolve` does.
    """

    def __init__(
        self,
        *,
        models: ModelManager,
        cache: ModelCache,
        load: LoadModel,
        idle_unload_s: float | None = None,
        on_model: ModelListener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`idle_unload_s`: how long a model stays in memory without requests, unless it is warm."""
        self._models = models
        self._cache = cache
        self._load = load
        self._on_model = on_model
        self._idle_unload_s = idle_unload_s
        self._clock = clock
        self._lock = threading.Lock()
        """Guards every `ActiveVersion`; it is not held while models are loaded."""
        self._names: dict[str, ActiveVersion] = {}
        self._warm: set[str] = set()
        """Names whose models stay in memory without requests."""
        self._changes = 0
        self._retirement = Retirement(cache, self._is_needed, clock)
        self._tending = PeriodicTask(self.tend, "model versions")
        self._loads: set[threading.Thread] = set()
        self._closing = False

    def resolve(self, model_name: str, *, is_warm: bool = False) -> ClaimedVersion:
        """Return the active version of `name`, `name@alias` or `name/version`; raises what `ModelManager.resolve`
        raises. `is_warm` keeps the model of that name in memory without requests."""
        asked_after = self._changes
        try:
            answer = self._models.resolve(model_name)
        except UnknownModel:
            self._forget(model_name)
            raise
        with self._lock:
            active = self._names.get(model_name)
            if active is None:
                self._tending.start()
                self._changes += 1
                active = self._names[model_name] = ActiveVersion(model_name, answer, answer, self._changes)
            elif answer is not active.wanted or answer is not active.current:
                self._follow(active, answer, asked_after)
            if is_warm:
                self._warm.add(model_name)
            return ClaimedVersion(active.current, self._retirement.claim(active.current.id))

    def warm_versions(self) -> set[VersionId]:
        """Return the versions that stay in memory without requests."""
        with self._lock:
            return {active.current.id for name, active in self._names.items() if name in self._warm}

    def tend(self) -> float:
        """Look up the names in memory, unload what is not needed, and return the seconds until the next time; blocks,
        in a thread of this object."""
        self._look_up_names()
        all_gone = self._retirement.collect()
        # An answer is renewed in the second half of its time: checked every quarter, none expires.
        pause_s = self._models.alias_poll_s / 4
        if self._idle_unload_s is not None:
            with self._lock:
                to_stay = {
                    active.current.id
                    for active in self._names.values()
                    if active.name in self._warm or active.state is State.FAILED
                }
            self._cache.unload_idle(self._idle_unload_s, keep=lambda key: key.model in to_stay)
            pause_s = min(pause_s, self._idle_unload_s / 2)
        return pause_s if all_gone else _LOOK_AGAIN_S

    def close(self) -> None:
        """Follow no further change, and wait a while for models that are being loaded; they are not activated."""
        with self._lock:
            self._closing = True
            threads = list(self._loads)
        until = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("model_still_loading", thread=thread.name, waited_s=_CLOSE_S)
        self._tending.close()
        self._retirement.close()

    def _follow(self, active: ActiveVersion, answer: ResolvedModel, asked_after: int) -> None:
        """Apply the registry's answer for a name: activate it or load it; call it under the lock."""
        active.observe(answer, asked_after=asked_after, number=self._changes + 1)
        self._changes = max(self._changes, active.change)
        if active.state in (State.SETTLED, State.LOADING) or not active.is_due(self._clock()):
            return
        if self._uses_to_load(active):
            self._start_load(active)
        else:
            log.info("model_moved", name=active.name, before=active.current.key, now=active.wanted.key)
            active.activate()
            self._tending.wake()  # the old version may be in memory for uses that the new one's tags exclude

    def _look_up_names(self) -> None:
        """Look up every name whose model is in memory or loading, and forget the others."""
        with self._lock:
            in_memory = {key.model for key in self._cache.all_keys()}
            for active in list(self._names.values()):
                version = active.current.id
                is_used = version in in_memory or self._retirement.is_claimed(version)
                is_moving = active.state not in (State.SETTLED, State.OUTDATED)
                if not (is_used or is_moving or active.name in self._warm):
                    del self._names[active.name]
            names = list(self._names.values())
        for active in names:
            self._look_up(active)

    def _look_up(self, active: ActiveVersion) -> None:
        asked_after = self._changes
        try:
            answer = self._models.renew(active.name)
        except UnknownModel:
            self._forget(active.name)
            return
        except InferenceError as error:
            log.debug("name_not_looked_up", name=active.name, error=error.message)
            return
        with self._lock:
            self._follow(active, answer, asked_after)

    def _forget(self, name: str) -> None:
        """Forget the versions of a name that was deleted: registered again, it begins with its new version."""
        with self._lock:
            if self._names.pop(name, None) is None:
                return
        log.info("model_deleted", name=name)
        self._tending.wake()

    def _is_needed(self, version: VersionId) -> bool:
        """Return whether a version is active, or about to be."""
        with self._lock:
            return any(
                version == active.current.id or (active.state is State.LOADING and version == active.wanted.id)
                for active in self._names.values()
            )

    def _uses_to_load(self, active: ActiveVersion) -> frozenset[Use]:
        """Return the uses of the active version that the wanted one's tags allow; call it under the lock."""
        uses = frozenset(key.use for key in self._keys_of(active.current.id)) or active.failed_uses
        return frozenset(use for use in uses if _is_meant_for(active.wanted, use))

    def _start_load(self, active: ActiveVersion) -> None:
        """Begin to load the wanted version of a name, where that is due; call it under the lock."""
        if self._closing or not active.begin(self._clock()):
            return
        thread = threading.Thread(
            target=self._load_wanted, args=(active,), name=f"load-{active.wanted.key}", daemon=True
        )
        active.loader = thread
        self._loads.add(thread)
        thread.start()

    def _load_wanted(self, active: ActiveVersion) -> None:
        """Load the wanted version until it is active or has failed, or another thread does; runs in a thread."""
        thread = threading.current_thread()
        try:
            while True:
                with self._lock:
                    if self._closing or active.loader is not thread or not active.begin(self._clock()):
                        return
                    before, new = active.current, active.wanted
                self._replace(active, before, new)
        except BaseException:
            log.exception("model_move_broke_off", name=active.name)
            with self._lock:
                active.fail(frozenset(), self._clock())
        finally:
            with self._lock:
                self._loads.discard(thread)

    def _replace(self, active: ActiveVersion, before: ResolvedModel, new: ResolvedModel) -> None:
        """Load `new` while `before` is held, and activate it if it is still wanted."""
        started = time.perf_counter()
        log.info("model_swap_started", name=active.name, before=before.key, now=new.key)
        holds = [hold for key in self._keys_of(before.id) if (hold := self._cache.hold(key)) is not None]
        leases: dict[Use, Lease] = {}
        try:
            if self._load_all(active, new, leases) and self._activate(active, new):
                seconds = time.perf_counter() - started
                told = {"name": active.name, "previous_version": before.version, "seconds": seconds}
                for use in leases:
                    tell(self._on_model, "model_swapped", new, use, **told)
                self._retirement.retire(before.id, holds)
                holds = []
        finally:
            for lease in (*leases.values(), *holds):
                lease.release()
            self._retirement.collect()
            self._tending.wake()

    def _load_all(self, active: ActiveVersion, new: ResolvedModel, leases: dict[Use, Lease]) -> bool:
        """Load `new` for all uses of the active version; note a failure."""
        while True:
            with self._lock:  # meanwhile requests may have loaded the active version for more tasks
                if active.wanted.id != new.id or self._closing:
                    return False
                missing = self._uses_to_load(active) - leases.keys()
            if not missing:
                return True
            for use in sorted(missing):
                try:
                    leases[use] = self._load(*use, new)
                except BaseException as error:  # noqa: BLE001 - noted, logged and told
                    self._note_failure(active, new, use, missing | leases.keys(), error)
                    return False

    def _activate(self, active: ActiveVersion, new: ResolvedModel) -> bool:
        """Activate `new` if it is still wanted: the name may have moved on during a long load."""
        self._look_up(active)
        with self._lock:
            if active.wanted.id != new.id or self._closing:
                return False
            active.activate()
            return True

    def _note_failure(
        self, active: ActiveVersion, new: ResolvedModel, use: Use, uses: frozenset[Use], raised: BaseException
    ) -> None:
        if not isinstance(raised, InferenceError):
            log.error("model_swap_failed_unexpectedly", model=new.key, exc_info=raised)
        error = as_inference_error(raised)
        with self._lock:
            if active.wanted.id != new.id:
                log.info("model_swap_given_up", name=active.name, model=new.key, error=error.message)
                return
            active.fail(uses, self._clock())
            told = {
                "name": active.name,
                "current_version": active.current.version,
                "error_code": error.code,
                "error": error.message,
                "retry_in_s": active.retry_in_s,
            }
        tell(self._on_model, "model_swap_failed", new, use, **told)

    def _keys_of(self, version: VersionId) -> list[ModelKey]:
        """Return the keys of a version in memory: one for each engine and task."""
        return [entry["key"] for entry in self._cache.entries() if entry["key"].model == version]


def _is_meant_for(model: ResolvedModel, use: Use) -> bool:
    engine, task = use
    try:
        check_tags(model, engine=engine, task=None if task == ANY_TASK else task)
    except ModelMismatch:
        return False
    return True
