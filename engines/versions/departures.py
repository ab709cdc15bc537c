"""Lets versions of models leave the memory when no request needs them any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from engines.cache.cached_model import Lease
from engines.cache.model_cache import ModelCache
from engines.models.resolved_model import ModelKey, VersionId

STRAGGLERS_S = 60.0
"""How long a version waits in memory for requests that were resolved to it and do not run yet."""


class Claim:
    """Kept by every request that one version is to answer; a version that leaves waits while there is one."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, eq=False)
class _Departure:
    version: VersionId
    until: float
    holds: tuple[Lease, ...]


class Departures:
    """The versions that are to leave the memory, and the claims of requests on those that stay.

    Thread-safe. `is_needed` says of a version whether it is in service (again): then it does not leave. It is
    called while no lock is held.
    """

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
        self._departures: list[_Departure] = []

    def claim(self, version: VersionId) -> Claim:
        """Return what keeps a version in memory while it is referred to."""
        with self._lock:
            claim = self._claims.get(version)
            if claim is None:
                claim = self._claims[version] = Claim()
            return claim

    def is_claimed(self, version: VersionId) -> bool:
        """Return whether a request is under way that the version is to answer."""
        return version in self._claims

    def add(self, version: VersionId, holds: Iterable[Lease] = ()) -> None:
        """Let a version leave with the next `let_go` that finds it unused, and end the holds on it then."""
        departure = _Departure(version, self._clock() + STRAGGLERS_S, tuple(holds))
        with self._lock:
            self._departures.append(departure)

    def let_go(self) -> bool:
        """Unload what nobody needs any more; return whether nothing is left to leave."""
        self._add_left_behind()
        with self._lock:
            departures = list(self._departures)
        for departure in departures:
            if self._is_needed(departure.version) or self._has_left(departure):
                self._drop(departure)
        with self._lock:
            return not self._departures

    def close(self) -> None:
        """End all holds; nothing leaves any more."""
        with self._lock:
            departures = list(self._departures)
        for departure in departures:
            self._drop(departure)

    def _add_left_behind(self) -> None:
        """Let versions leave that no name stands for: a request that came late may have loaded one again."""
        versions = {key.model for key in self._cache.all_keys()}
        for version in versions - {departure.version for departure in self._departures}:
            if not self._is_needed(version):
                self.add(version)

    def _has_left(self, departure: _Departure) -> bool:
        if self.is_claimed(departure.version) and self._clock() < departure.until:
            return False
        keys = [key for key in self._cache.all_keys() if key.model == departure.version]
        gone = [self._cache.retire(key) for key in keys]
        return all(gone)

    def _drop(self, departure: _Departure) -> None:
        with self._lock:
            if departure not in self._departures:  # another thread was faster
                return
            self._departures.remove(departure)
        for lease in departure.holds:
            lease.release()


def keys_of(cache: ModelCache, version: VersionId) -> list[ModelKey]:
    """Return under which keys a version is in memory: one for each engine and task."""
    return [entry["key"] for entry in cache.entries() if entry["key"].model == version]
