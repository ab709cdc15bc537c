"""Which version of a model answers: the one in memory, until the registry's next choice is loaded beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from engines.cached_model import Lease
from engines.checks import check_tags
from engines.departures import Claim, Departures, Use, loaded_uses
from engines.model_cache import ModelCache
from engines.model_loading import ModelListener, tell
from engines.models import ModelManager
from engines.resolved_model import ResolvedModel
from engines.upkeep import Upkeep
from handlers.errors import InferenceError, ModelMismatch, as_inference_error

log = structlog.get_logger(__name__)

LoadModel = Callable[[str, str, ResolvedModel], Lease]
"""Loads a model for an engine and a task where it is not in memory, and returns a lease on it."""

RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
"""Seconds until a version that did not load is tried again; they double with each failure."""

_LOOK_AGAIN_S = 0.1
"""How often a replaced version is looked at that is still in use."""

_CLOSE_S = 30.0


class InService(NamedTuple):
    """The version that answers a request, wholly; keep `claim` for as long as the request is under way."""

    model: ResolvedModel
    claim: Claim


@dataclass(frozen=True, slots=True)
class _Failure:
    version: str
    uses: frozenset[Use]
    retry_in_s: float
    retry_at: float


@dataclass(slots=True, eq=False)
class _Service:
    """What one name stands for; guarded by the lock of its owner."""

    name: str
    current: ResolvedModel
    wanted: ResolvedModel
    changed: int = 0
    """The number of the change that made `wanted` what it is."""
    is_warm: bool = False
    is_moving: bool = False
    loading: str | None = None
    """The version that is being loaded for it."""
    failure: _Failure | None = None


class ModelSwaps:
    """Says which version of a model is in service, and brings in the next one without a request noticing.

    When the registry's answer for a name changes and the version in service is in memory, the new version is
    loaded beside it in a thread of its own, for the same engines and tasks, while requests go on being
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
        self._load = load
        self._idle_unload_s = idle_unload_s
        self._on_model = on_model
        self._clock = clock
        self._lock = threading.Lock()
        self._services: dict[str, _Service] = {}
        self._changes = 0
        self._departures = Departures(cache, self._is_needed, clock)
        self._moving: set[threading.Thread] = set()
        self._closing = False
        self._upkeep = Upkeep(self.tend, "model versions")

    def resolve(self, model_name: str, *, is_warm: bool = False) -> InService:
        """Return the version in service under `name`, `name@alias` or `name/version`.

        `is_warm` keeps the model of that name from being unloaded for want of requests.

        Raises:
            InvalidRequest: permanent; `model_name` has none of the three forms.
            UnknownModel: permanent; the server knows no such model, version or alias.
            RegistryUnavailable: retryable; the server is away, and never told about this name.
        """
        asked_after = self._changes
        answer = self._models.resolve(model_name)
        self._upkeep.start()
        with self._lock:
            service = self._services.get(model_name)
            if service is None:
                service = self._services[model_name] = _Service(model_name, answer, answer)
            service.is_warm |= is_warm
            self._follow(service, answer, asked_after)
            return InService(service.current, self._departures.claim(service.current.key))

    def tend(self) -> float:
        """Look up the names in memory, let go of what nobody needs; return the seconds until the next time.

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
        with self._lock:
            self._closing = True
            moving = list(self._moving)
        self._upkeep.close()
        until = time.monotonic() + _CLOSE_S
        for thread in moving:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("model_still_loading", thread=thread.name, waited_s=_CLOSE_S)
        self._departures.close()

    def _follow(self, service: _Service, answer: ResolvedModel, asked_after: int) -> None:
        """Take the registry's answer for a name: it is in service, or on its way; under the lock.

        `asked_after` is the number of changes when the question was put: an answer that another thread has
        overtaken must not turn the name back.
        """
        if answer.key != service.wanted.key:
            if asked_after < service.changed:
                return
            service.failure = None
            self._changes = service.changed = self._changes + 1
        service.wanted = answer
        if answer.key == service.current.key:
            service.current = answer  # its tags may have changed
            return
        if service.is_moving or self._closing or not self._may_try(service):
            return
        if not self._uses_to_carry_over(service, answer):
            log.info("model_moved", name=service.name, before=service.current.key, now=answer.key)
            self._departures.add(service.current.key)
            service.current, service.failure = answer, None
            self._upkeep.wake()
            return
        service.is_moving = True
        thread = threading.Thread(target=self._move, args=(service,), name=f"load-{answer.key}", daemon=True)
        self._moving.add(thread)
        thread.start()

    def _may_try(self, service: _Service) -> bool:
        failure = service.failure
        return failure is None or failure.version != service.wanted.key or self._clock() >= failure.retry_at

    def _uses_to_carry_over(self, service: _Service, new: ResolvedModel) -> frozenset[Use]:
        """Return what the version in service is loaded for, as far as `new` is meant for it."""
        uses = frozenset(use for use, _ in loaded_uses(self._cache, service.current.key))
        if not uses and service.failure is not None:
            uses = service.failure.uses
        return frozenset(use for use in uses if _is_meant_for(new, use))

    def _move(self, service: _Service) -> None:
        """Bring in what is wanted until it is in service; runs in a thread of its own."""
        try:
            while True:
                with self._lock:
                    old, new = service.current, service.wanted
                    if self._closing or old.key == new.key or not self._may_try(service):
                        service.is_moving = False
                        return
                    service.loading = new.key
                self._replace(service, old, new)
        except Exception:
            log.exception("model_swap_broke_off", name=service.name)
            with self._lock:
                service.is_moving = False
        finally:
            with self._lock:
                self._moving.discard(threading.current_thread())

    def _replace(self, service: _Service, old: ResolvedModel, new: ResolvedModel) -> None:
        """Load `new` beside `old`, and put it into service if it is still wanted by then."""
        started = time.perf_counter()
        log.info("model_swap_started", name=service.name, before=old.key, now=new.key)
        holds = [
            lease
            for _, key in loaded_uses(self._cache, old.key)
            if (lease := self._cache.hold(key)) is not None
        ]
        leases: dict[Use, Lease] = {}
        is_in_service = False
        try:
            if self._load_all(service, new, leases):
                self._look_up(service)  # the name may have moved on during a long load
                is_in_service = self._put_into_service(service, new)
            if is_in_service:
                for engine, task in leases:
                    tell(
                        self._on_model,
                        "model_swapped",
                        new,
                        engine=engine,
                        task=task,
                        name=service.name,
                        previous_version=old.version,
                        seconds=time.perf_counter() - started,
                    )
                self._depart(old.key, holds)
                holds = []
        finally:
            with self._lock:
                service.loading = None
            _release([*leases.values(), *holds])
            if not is_in_service:
                self._depart(new.key, [])

    def _load_all(self, service: _Service, new: ResolvedModel, leases: dict[Use, Lease]) -> bool:
        """Load `new` for all that the version in service is loaded for; note the failure where it fails."""
        while True:
            with self._lock:  # meanwhile requests may have loaded the old version for more tasks
                missing = self._uses_to_carry_over(service, new) - leases.keys()
            if not missing:
                return True
            for use in sorted(missing):
                try:
                    leases[use] = self._load(*use, new)
                except Exception as error:  # noqa: BLE001 - noted, logged and told
                    self._note_failure(service, new, use, missing | leases.keys(), error)
                    return False

    def _put_into_service(self, service: _Service, new: ResolvedModel) -> bool:
        """Let the name stand for `new` where that is still wanted."""
        with self._lock:
            if service.wanted.key != new.key or self._closing:
                return False
            service.current, service.failure = service.wanted, None
            return True

    def _note_failure(
        self, service: _Service, new: ResolvedModel, use: Use, uses: frozenset[Use], raised: Exception
    ) -> None:
        if not isinstance(raised, InferenceError):
            log.error("model_swap_failed_unexpectedly", model=new.key, exc_info=raised)
        error = as_inference_error(raised)
        with self._lock:
            last = service.failure
            again = last is not None and last.version == new.key
            retry_in_s = min(2 * last.retry_in_s, LONGEST_RETRY_S) if last and again else RETRY_S
            service.failure = _Failure(new.key, uses, retry_in_s, self._clock() + retry_in_s)
            current = service.current.version
        engine, task = use
        tell(
            self._on_model,
            "model_swap_failed",
            new,
            engine=engine,
            task=task,
            name=service.name,
            current_version=current,
            error_code=error.code,
            error=error.message,
            retry_in_s=retry_in_s,
        )

    def _depart(self, version: str, holds: list[Lease]) -> None:
        self._departures.add(version, holds)
        self._departures.let_go()
        self._upkeep.wake()

    def _is_needed(self, version: str) -> bool:
        """Return whether a version is in service, or about to be."""
        with self._lock:
            return any(
                version in (service.current.key, service.loading) for service in self._services.values()
            )

    def _look_up_names(self) -> None:
        """Follow the registry for every name whose model is in memory, and forget the other names."""
        with self._lock:
            in_memory = {entry["key"].split("/", 2)[2] for entry in self._cache.entries()}
            for service in list(self._services.values()):
                version = service.current.key
                is_used = version in in_memory or self._departures.is_claimed(version) or service.is_moving
                if not is_used and service.failure is None and not service.is_warm:
                    del self._services[service.name]
            services = list(self._services.values())
        for service in services:
            self._look_up(service)

    def _look_up(self, service: _Service) -> None:
        asked_after = self._changes
        try:
            answer = self._models.renew(service.name)
        except InferenceError as error:
            log.debug("name_not_looked_up", name=service.name, error=error.message)
            return
        with self._lock:
            self._follow(service, answer, asked_after)

    def _unload_idle(self, idle_s: float) -> None:
        with self._lock:
            to_stay = {
                service.current.key
                for service in self._services.values()
                if service.is_warm or service.failure is not None
            }
        self._cache.unload_idle(idle_s, keep=lambda key: key.split("/", 2)[2] in to_stay)


def _is_meant_for(model: ResolvedModel, use: Use) -> bool:
    engine, task = use
    try:
        check_tags(model, engine=engine, task=task)
    except ModelMismatch:
        return False
    return True


def _release(leases: Iterable[Lease]) -> None:
    for lease in leases:
        lease.release()
