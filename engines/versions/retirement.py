"""Unloads versions that no name stands for and no request needs any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from engines.cache.model_cache import ModelCache
from engines.lease import Lease
from engines.models.resolved_model import VersionId

STRAGGLERS_S = 60.0
"""How long a retired version stays in memory for requests that were resolved to it and do not run yet."""


class Claim:
    """Held by every request of a version; a retired version stays while there is one."""

    __slots__ = ("__weakref__",)


@dataclass(slots=True)
class _Retired:
    until: float
    holds: Sequence[Lease] = ()


class Retirement:
    """The versions to unload, and the claims of requests on all versions. Thread-safe; calls `is_needed`, which tells
    whether a name stands for a version, while no lock is held."""

    def __init__(
        self,
        cache: ModelCache,
        is_needed: Callable[[VersionId], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._is_needed = is_needed
        self._clock = clock
        self._lock = threading.Lock()
        self._claims: WeakValueDictionary[VersionId, Claim] = WeakValueDictionary()
        self._retired: dict[VersionId, _Retired] = {}

    def claim(self, version: VersionId) -> Claim:
        """Return an object that keeps a version in memory while it is referenced."""
        with self._lock:
            claim = self._claims.get(version)
            if claim is None:
                claim = self._claims[version] = Claim()
            return claim

    def is_claimed(self, version: VersionId) -> bool:
        """Return whether a request of the version is under way."""
        return version in self._claims

    def retire(self, version: VersionId, holds: Sequence[Lease] = ()) -> None:
        """Have the next `collect` that finds a version unused unload it and end the holds on it."""
        with self._lock:
            before = self._retired.get(version)
            kept = () if before is None else before.holds
            self._retired[version] = _Retired(self._clock() + STRAGGLERS_S, [*kept, *holds])

    def collect(self) -> bool:
        """Unload versions that are not needed; return whether all retired ones are gone."""
        in_memory = {key.model for key in self._cache.all_keys()}
        with self._lock:
            retired = set(self._retired)
        for version in in_memory | retired:
            is_needed = self._is_needed(version)
            if not is_needed and version not in retired:  # loaded for a late request, or without use
                self.retire(version)
            if is_needed or self._is_unloaded(version):
                self._end(version)
        with self._lock:
            return not self._retired

    def close(self) -> None:
        """End all holds."""
        with self._lock:
            retired = list(self._retired)
        for version in retired:
            self._end(version)

    def _is_unloaded(self, version: VersionId) -> bool:
        with self._lock:
            retired = self._retired.get(version)
        if retired is None or (self.is_claimed(version) and self._clock() < retired.until):
            return False
        gone = [self._cache.retire(key) for key in self._cache.all_keys() if key.model == version]
        return all(gone)

    def _end(self, version: VersionId) -> None:
        with self._lock:
            retired = self._retired.pop(version, None)
        if retired is not None:
            for lease in retired.holds:
                lease.release()
