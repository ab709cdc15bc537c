"""Which version of a model answers: the one in memory, until the registry's next choice is loaded beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog

from engines.cache.cached_model import Lease
from engines.cache.loader import ModelListener
from engines.cache.model_cache import ModelCache
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel, VersionId
from engines.upkeep import Upkeep
from engines.versions.departures import Claim, Departures
from engines.versions.model_moves import LoadModel, ModelMoves
from engines.versions.model_service import Service
from handlers.errors import InferenceError

log = structlog.get_logger(__name__)

_LOOK_AGAIN_S = 0.1
"""How often a replaced version is looked at that is still in use."""


class InService(NamedTuple):
    """The version that answers a request, wholly; keep `claim` for as long as the request is under way."""

    model: ResolvedModel
    claim: Claim


class ModelSwaps:
    """Says which version of a model is in service, and brings in the next one without a request noticing.

    When the registry's answer for a name changes and the version in service is in memory, the new version is
    loaded beside it in a separate thread, for the same engines and tasks, while requests go on being
    answered by the old one. Then the name moves to the new version at once: requests resolved from then on
    get it, those resolved before are answered by the old one, which leaves the memory when the last of them
    is done. A version that does not load leaves the old one in service; it is tried again after a while, and
    as soon as the registry names another. A name whose version is not in memory moves straight away.

    Names whose model is in memory are looked up again without requests too, so a change is followed within
    `alias_poll_s` and the time that the load takes. Thread-safe; `resolve` blocks only as
    `ModelManager.resolve` does.
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
        """`idle_unload_s`: how long a model stays in memory without requests, where it was not warmed."""
        self._models = models
        self._cache = cache
        self._idle_unload_s = idle_unload_s
        self._clock = clock
        self._lock = threading.Lock()
        self._services: dict[str, Service] = {}
        self._changes = 0
        self._departures = Departures(cache, self._is_needed, clock)
        self._moves = ModelMoves(
            cache=cache,
            load=load,
            lock=self._lock,
            look_up=self._look_up,
            depart=self._depart,
            on_model=on_model,
            clock=clock,
        )
        self._upkeep = Upkeep(self.tend, "model versions")

    def resolve(self, model_name: str, *, is_warm: bool = False) -> InService:
        """Return the version in service under `name`, `name@alias` or `name/version`.

        `is_warm` keeps the model of that name in memory without requests.

        Raises:
            InvalidRequest: permanent; `model_name` has none of the three forms.
            UnknownModel: permanent; the server knows no such model, version or alias.
            RegistryUnavailable: retryable; the server is away, and never told about this name.
        """
        asked_after = self._changes
        answer = self._models.resolve(model_name)
        with self._lock:
            service = self._services.get(model_name)
            if service is None:
                self._upkeep.start()
                self._changes += 1
                service = self._services[model_name] = Service(model_name, answer, answer, self._changes)
            elif answer is not service.wanted or answer is not service.current:
                self._follow(service, answer, asked_after)
            if is_warm:
                service.is_warm = True
            return InService(service.current, self._departures.claim(service.current.id))

    def warm_versions(self) -> set[VersionId]:
        """Return the versions that stay in memory without requests."""
        with self._lock:
            return {service.current.id for service in self._services.values() if service.is_warm}

    def tend(self) -> float:
        """Look up the names in memory, unload what nobody needs; return the seconds until the next time.

        Called by a thread of this object; blocks while the registry answers and models are unloaded.
        """
        self._look_up_names()
        all_left = self._departures.let_go()
        # An answer is renewed in the second half of its time: looked at every quarter, none grows too old.
        pause_s = self._models.alias_poll_s / 4
        if self._idle_unload_s is not None:
            self._unload_idle(self._idle_unload_s)
            pause_s = min(pause_s, self._idle_unload_s / 2)
        return pause_s if all_left else _LOOK_AGAIN_S

    def close(self) -> None:
        """Follow no further change, and wait a while for models that are being loaded."""
        self._moves.close()
        self._upkeep.close()
        self._departures.close()

    def _follow(self, service: Service, answer: ResolvedModel, asked_after: int) -> None:
        """Take the registry's answer for a name: it is in service, or on its way; under the lock."""
        service.hear(answer, asked_after=asked_after, number=self._changes + 1)
        self._changes = max(self._changes, service.changed)
        if service.is_settled or not service.may_try(self._clock()):
            return
        if service.is_moving or self._moves.uses_to_carry_over(service):
            self._moves.start(service)
            return
        log.info("model_moved", name=service.name, before=service.current.key, now=service.wanted.key)
        self._departures.add(service.current.id)
        service.move()
        self._upkeep.wake()

    def _look_up_names(self) -> None:
        """Follow the registry for every name whose model is in memory, or on its way, and forget the others."""
        with self._lock:
            in_memory = {key.model for key in self._cache.all_keys()}
            for service in list(self._services.values()):
                version = service.current.id
                is_used = version in in_memory or self._departures.is_claimed(version) or service.is_moving
                if not is_used and service.failure is None and not service.is_warm:
                    del self._services[service.name]
            services = list(self._services.values())
        for service in services:
            self._look_up(service)

    def _look_up(self, service: Service) -> None:
        asked_after = self._changes
        try:
            answer = self._models.renew(service.name)
        except InferenceError as error:
            log.debug("name_not_looked_up", name=service.name, error=error.message)
            return
        with self._lock:
            self._follow(service, answer, asked_after)

    def _depart(self, version: VersionId, holds: Iterable[Lease]) -> None:
        self._departures.add(version, holds)
        self._departures.let_go()
        self._upkeep.wake()

    def _is_needed(self, version: VersionId) -> bool:
        """Return whether a version is in service, or about to be."""
        with self._lock:
            return any(
                version in (service.current.id, service.loading) for service in self._services.values()
            )

    def _unload_idle(self, idle_s: float) -> None:
        with self._lock:
            to_stay = {
                service.current.id
                for service in self._services.values()
                if service.is_warm or service.failure is not None
            }
        self._cache.unload_idle(idle_s, keep=lambda key: key.model in to_stay)
