"""Decides which version of a model answers: the active one, until the next is loaded beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from engines.cache.loader import ModelListener
from engines.cache.model_cache import ModelCache
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel, VersionId
from engines.periodic_task import PeriodicTask
from engines.versions.active_version import ActiveVersion, State
from engines.versions.retirement import Claim, Retirement
from engines.versions.version_loader import LoadModel, VersionLoader
from handlers.errors import InferenceError
from handlers.logger import get_logger

log = get_logger(__name__)

_LOOK_AGAIN_S = 0.1
"""How often a retired version that is still in use is checked."""


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
        self._idle_unload_s = idle_unload_s
        self._clock = clock
        self._lock = threading.Lock()
        self._names: dict[str, ActiveVersion] = {}
        self._changes = 0
        self._retirement = Retirement(cache, self._is_needed, clock)
        self._tending = PeriodicTask(self.tend, "model versions")
        self._loader = VersionLoader(
            cache=cache,
            load=load,
            lock=self._lock,
            look_up=self._look_up,
            retirement=self._retirement,
            wake=self._tending.wake,
            on_model=on_model,
            clock=clock,
        )

    def resolve(self, model_name: str, *, is_warm: bool = False) -> ClaimedVersion:
        """Return the active version of `name`, `name@alias` or `name/version`.

        `is_warm` keeps the model of that name in memory without requests.

        Raises:
            InvalidRequest: permanent; `model_name` has none of the three forms.
            UnknownModel: permanent; the server knows no such model, version or alias.
            RegistryUnavailable: retryable; the server is away, and never answered for this name.
        """
        asked_after = self._changes
        answer = self._models.resolve(model_name)
        with self._lock:
            active = self._names.get(model_name)
            if active is None:
                self._tending.start()
                self._changes += 1
                active = self._names[model_name] = ActiveVersion(model_name, answer, answer, self._changes)
            elif answer is not active.wanted or answer is not active.current:
                self._follow(active, answer, asked_after)
            if is_warm:
                active.is_warm = True
            return ClaimedVersion(active.current, self._retirement.claim(active.current.id))

    def warm_versions(self) -> set[VersionId]:
        """Return the versions that stay in memory without requests."""
        with self._lock:
            return {active.current.id for active in self._names.values() if active.is_warm}

    def tend(self) -> float:
        """Look up the names in memory, unload what is not needed; return the seconds until the next time.

        Called by a thread of this object; blocks while the registry answers and models are unloaded.
        """
        self._look_up_names()
        all_gone = self._retirement.collect()
        # An answer is renewed in the second half of its time: checked every quarter, none expires.
        pause_s = self._models.alias_poll_s / 4
        if self._idle_unload_s is not None:
            self._unload_idle(self._idle_unload_s)
            pause_s = min(pause_s, self._idle_unload_s / 2)
        return pause_s if all_gone else _LOOK_AGAIN_S

    def close(self) -> None:
        """Follow no further change, and wait a while for models that are being loaded."""
        self._loader.close()
        self._tending.close()
        self._retirement.close()

    def _follow(self, active: ActiveVersion, answer: ResolvedModel, asked_after: int) -> None:
        """Apply the registry's answer for a name: activate it or load it; call it under the lock."""
        active.observe(answer, asked_after=asked_after, number=self._changes + 1)
        self._changes = max(self._changes, active.change)
        if active.state in (State.SETTLED, State.LOADING) or not active.is_due(self._clock()):
            return
        if self._loader.uses_to_load(active):
            self._loader.start(active)
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
                if not is_used and not active.is_warm and active.state in (State.SETTLED, State.OUTDATED):
                    del self._names[active.name]
            names = list(self._names.values())
        for active in names:
            self._look_up(active)

    def _look_up(self, active: ActiveVersion) -> None:
        asked_after = self._changes
        try:
            answer = self._models.renew(active.name)
        except InferenceError as error:
            log.debug("name_not_looked_up", name=active.name, error=error.message)
            return
        with self._lock:
            self._follow(active, answer, asked_after)

    def _is_needed(self, version: VersionId) -> bool:
        """Return whether a version is active, or about to be."""
        with self._lock:
            return any(
                version == active.current.id
                or (active.state is State.LOADING and version == active.wanted.id)
                for active in self._names.values()
            )

    def _unload_idle(self, idle_s: float) -> None:
        with self._lock:
            to_stay = {
                active.current.id
                for active in self._names.values()
                if active.is_warm or active.state is State.FAILED
            }
        self._cache.unload_idle(idle_s, keep=lambda key: key.model in to_stay)
