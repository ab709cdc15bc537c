"""Moves a name to its next version: loads that beside the one in service, which answers until it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import structlog

from engines.cache.cached_model import Lease
from engines.cache.loader import ModelListener, tell
from engines.cache.model_cache import ModelCache
from engines.models.resolved_model import ANY_TASK, ResolvedModel, Use, VersionId, check_tags
from engines.versions.departures import keys_of
from engines.versions.model_service import Service
from handlers.errors import InferenceError, ModelMismatch, as_inference_error

log = structlog.get_logger(__name__)

LoadModel = Callable[[str, str, ResolvedModel], Lease]
"""Loads a model for an engine and a task where it is not in memory, and returns a lease on it."""

_CLOSE_S = 30.0


class ModelMoves:
    """The names that are on their way to another version, each in a separate thread.

    Thread-safe. `lock` guards every `Service` that is passed here; it is not held while models are loaded.
    """

    def __init__(
        self,
        *,
        cache: ModelCache,
        load: LoadModel,
        lock: threading.Lock,
        look_up: Callable[[Service], None],
        depart: Callable[[VersionId, Iterable[Lease]], None],
        on_model: ModelListener | None,
        clock: Callable[[], float],
    ) -> None:
        """`look_up` asks the registry once more what a name stands for, and tells its service; `depart` lets a
        version leave the memory when nobody needs it any more, and ends the holds on it."""
        self._cache = cache
        self._load = load
        self._lock = lock
        self._look_up = look_up
        self._depart = depart
        self._on_model = on_model
        self._clock = clock
        self._threads: set[threading.Thread] = set()
        self._closing = False

    def uses_to_carry_over(self, service: Service) -> frozenset[Use]:
        """Return what the version in service is loaded for, as far as the wanted one is meant for it; under
        the lock."""
        uses = frozenset(key.use for key in keys_of(self._cache, service.current.id))
        if not uses and service.failure is not None:
            uses = service.failure.uses
        return frozenset(use for use in uses if _is_meant_for(service.wanted, use))

    def start(self, service: Service) -> None:
        """Begin to bring in what the name wants, where that is not under way; under the lock."""
        if service.is_moving or self._closing:
            return
        service.is_moving = True
        name = f"load-{service.wanted.key}"
        thread = threading.Thread(target=self._move, args=(service,), name=name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def close(self) -> None:
        """Begin no further move, and wait a while for those under way: they put nothing into service any more."""
        with self._lock:
            self._closing = True
            threads = list(self._threads)
        until = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("model_still_loading", thread=thread.name, waited_s=_CLOSE_S)

    def _move(self, service: Service) -> None:
        """Bring in what is wanted until it is in service; runs in a separate thread."""
        try:
            while True:
                with self._lock:
                    old, new = service.current, service.wanted
                    if self._closing or service.is_settled or not service.may_try(self._clock()):
                        service.is_moving = False
                        return
                    service.loading = new.id
                self._replace(service, old, new)
        except BaseException:
            log.exception("model_move_broke_off", name=service.name)
            with self._lock:
                service.is_moving = False
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _replace(self, service: Service, old: ResolvedModel, new: ResolvedModel) -> None:
        """Load `new` while `old` is held, and put it into service if it is still wanted by then."""
        started = time.perf_counter()
        log.info("model_swap_started", name=service.name, before=old.key, now=new.key)
        holds = [hold for key in keys_of(self._cache, old.id) if (hold := self._cache.hold(key)) is not None]
        leases: dict[Use, Lease] = {}
        is_in_service = False
        try:
            is_in_service = self._load_all(service, new, leases) and self._put_into_service(service, new)
        finally:
            if is_in_service:
                self._tell_swapped(service, new, leases, old.version, time.perf_counter() - started)
                self._depart(old.id, holds)  # which ends the holds
            with self._lock:
                service.loading = None
            for lease in leases.values():
                lease.release()
            if not is_in_service:
                for hold in holds:
                    hold.release()
                self._depart(new.id, ())

    def _load_all(self, service: Service, new: ResolvedModel, leases: dict[Use, Lease]) -> bool:
        """Load `new` for all that the version in service is loaded for; note the failure where it fails."""
        while True:
            with self._lock:  # meanwhile requests may have loaded the old version for more tasks
                if service.wanted.id != new.id or self._closing:
                    return False
                missing = self.uses_to_carry_over(service) - leases.keys()
            if not missing:
                return True
            for use in sorted(missing):
                try:
                    leases[use] = self._load(*use, new)
                except BaseException as error:  # noqa: BLE001 - noted, logged and told
                    self._note_failure(service, new, use, missing | leases.keys(), error)
                    return False

    def _put_into_service(self, service: Service, new: ResolvedModel) -> bool:
        """Let the name stand for `new` where that is still wanted: it may have moved on during a long load."""
        self._look_up(service)
        with self._lock:
            if service.wanted.id != new.id or self._closing:
                return False
            service.move()
            return True

    def _tell_swapped(
        self, service: Service, new: ResolvedModel, uses: Iterable[Use], previous: str, seconds: float
    ) -> None:
        for engine, task in uses:
            tell(
                self._on_model,
                "model_swapped",
                new,
                engine=engine,
                task=task,
                name=service.name,
                previous_version=previous,
                seconds=seconds,
            )

    def _note_failure(
        self, service: Service, new: ResolvedModel, use: Use, uses: frozenset[Use], raised: BaseException
    ) -> None:
        if not isinstance(raised, InferenceError):
            log.error("model_swap_failed_unexpectedly", model=new.key, exc_info=raised)
        error = as_inference_error(raised)
        with self._lock:
            if service.wanted.id != new.id:
                log.info("model_swap_given_up", name=service.name, model=new.key, error=error.message)
                return
            failure = service.fail(uses, self._clock())
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
            retry_in_s=failure.retry_in_s,
        )


def _is_meant_for(model: ResolvedModel, use: Use) -> bool:
    engine, task = use
    try:
        check_tags(model, engine=engine, task=None if task == ANY_TASK else task)
    except ModelMismatch:
        return False
    return True
