"""Loads the wanted version of a name beside the active one, which answers until then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from engines.cache.loader import ModelListener, tell
from engines.cache.model_cache import ModelCache
from engines.lease import Lease
from engines.models.resolved_model import ANY_TASK, ModelKey, ResolvedModel, Use, VersionId, check_tags
from engines.versions.active_version import ActiveVersion
from engines.versions.retirement import Retirement
from handlers.errors import InferenceError, ModelMismatch, as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)

LoadModel = Callable[[str, str, ResolvedModel], Lease]
"""Loads a model for an engine and a task where it is not in memory, and returns a lease on it."""

_CLOSE_S = 30.0


class VersionLoader:
    """Loads the wanted version of each name in a separate thread, and activates it.

    Thread-safe. `lock` guards every `ActiveVersion` that is passed here; it is not held while models are loaded.
    """

    def __init__(
        self,
        *,
        cache: ModelCache,
        load: LoadModel,
        lock: threading.Lock,
        look_up: Callable[[ActiveVersion], None],
        retirement: Retirement,
        wake: Callable[[], None],
        on_model: ModelListener | None,
        clock: Callable[[], float],
    ) -> None:
        """`look_up` asks the registry again for a name; `wake` triggers the retirement of the old version."""
        self._cache = cache
        self._load = load
        self._lock = lock
        self._look_up = look_up
        self._retirement = retirement
        self._wake = wake
        self._on_model = on_model
        self._clock = clock
        self._threads: set[threading.Thread] = set()
        self._closing = False

    def uses_to_load(self, active: ActiveVersion) -> frozenset[Use]:
        """Return the uses of the active version that the wanted one's tags allow; call it under the lock."""
        uses = frozenset(key.use for key in self._keys_of(active.current.id)) or active.failed_uses
        return frozenset(use for use in uses if _is_meant_for(active.wanted, use))

    def start(self, active: ActiveVersion) -> None:
        """Begin to load the wanted version of a name, where that is due; call it under the lock."""
        if self._closing or not active.begin(self._clock()):
            return
        thread = threading.Thread(
            target=self._run, args=(active,), name=f"load-{active.wanted.key}", daemon=True
        )
        self._threads.add(thread)
        thread.start()

    def close(self) -> None:
        """Begin no further load, and wait a while for those under way; their versions are not activated."""
        with self._lock:
            self._closing = True
            threads = list(self._threads)
        until = time.monotonic() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("model_still_loading", thread=thread.name, waited_s=_CLOSE_S)

    def _run(self, active: ActiveVersion) -> None:
        """Load the wanted version until it is active or has failed; runs in a separate thread."""
        try:
            while True:
                with self._lock:
                    if self._closing or not active.begin(self._clock()):
                        return
                    before, new = active.current, active.wanted
                self._replace(active, before, new)
        except BaseException:
            log.exception("model_move_broke_off", name=active.name)
            with self._lock:
                active.fail(frozenset(), self._clock())
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

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
                    self._tell("model_swapped", new, use, told)
                self._retirement.retire(before.id, holds)
                holds = []
        finally:
            for lease in (*leases.values(), *holds):
                lease.release()
            self._retirement.collect()
            self._wake()

    def _load_all(self, active: ActiveVersion, new: ResolvedModel, leases: dict[Use, Lease]) -> bool:
        """Load `new` for all uses of the active version; note a failure."""
        while True:
            with self._lock:  # meanwhile requests may have loaded the active version for more tasks
                if active.wanted.id != new.id or self._closing:
                    return False
                missing = self.uses_to_load(active) - leases.keys()
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
        self._tell("model_swap_failed", new, use, told)

    def _tell(self, kind: str, model: ResolvedModel, use: Use, told: Mapping[str, object]) -> None:
        engine, task = use
        tell(self._on_model, kind, model, engine=engine, task=task, **told)

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
