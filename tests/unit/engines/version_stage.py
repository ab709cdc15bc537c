"""A registry whose names a test moves, and swaps over a cache whose loads it can hold up or let fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.cache.cached_model import Loaded
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import MakeRoom, ModelCache
from engines.config.settings import CacheSettings, MlflowSettings
from engines.lease import Lease
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel, key_of
from engines.versions.versions import ClaimedVersion, Versions
from handlers.errors import ModelLoadFailed, RegistryUnavailable, UnknownModel
from tests.unit.engines.cached_models import DEADLINE_S, wait_until

NEVER_S = 86_400.0


class Aliases(ModelManager):
    """A registry in which a test moves names from version to version."""

    def __init__(self, directory: Path) -> None:
        super().__init__(MlflowSettings(alias_poll_s=NEVER_S), CacheSettings(directory=directory))
        self.versions: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.sources: dict[str, str] = {}
        self.is_away = False

    def resolve(self, model_name: str) -> ResolvedModel:
        if self.is_away:
            raise RegistryUnavailable("away")
        name, _, version = model_name.partition("/")
        if name not in self.versions:
            raise UnknownModel(name)
        key = f"{name}/{version or self.versions[name]}"
        return ResolvedModel(name, key.split("/")[1], self.sources.get(key, key), self.tags.get(key, {}))

    def renew(self, model_name: str) -> ResolvedModel:
        return self.resolve(model_name)


class Stage:
    """Swaps over a cache whose loads a test can hold up or let fail, with a clock of its own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.now = 0.0
        self.models = Aliases(directory)
        self.models.versions["m"] = "1"
        max_models, max_bytes = settings.pop("max_models", 4), settings.pop("max_bytes", 1000)
        self.cache = ModelCache(max_models, MemoryBudget(max_bytes), clock=lambda: self.now)
        self.before: dict[str, Callable[[], object]] = {}
        self.loads: Counter[str] = Counter()
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self.versions = Versions(
            models=self.models,
            cache=self.cache,
            load=self.load,
            on_model=lambda kind, model, details: self.told.append((kind, model.key, dict(details))),
            clock=lambda: self.now,
            **settings,
        )

    def load(self, engine: str, task: str, model: ResolvedModel) -> Lease:
        def load(make_room: MakeRoom) -> Loaded:
            self.before.get(model.key, lambda: None)()
            self.loads[f"{task}:{model.key}"] += 1
            return Loaded(model.source, 10)

        return self.cache.share(key_of(engine, task, model.id), load, lambda loaded: None)

    def swap_to(self, version: str) -> None:
        """Let "m" stand for another version, and return once requests have it."""
        self.models.versions["m"] = version
        wait_until(lambda: self.use() == version)

    def use(self, name: str = "m", *, task: str = "t") -> str:
        """Resolve a name and run its model; return the version."""
        return self.run(self.versions.resolve(name), task=task)

    def flip(self, version: str, *, task: str = "t") -> None:
        """Let name m stand for another version, and let a request find that out; it gets the old one."""
        before = self.versions.resolve("m").model.version
        self.models.versions["m"] = version
        assert self.use(task=task) == before

    def run(self, version: ClaimedVersion, *, task: str = "t") -> str:
        self.load("e", task, version.model).release()
        return version.model.version

    def source(self, name: str = "m") -> str:
        """Resolve a name and run its model; return from where that was loaded."""
        lease = self.load("e", "t", self.versions.resolve(name).model)
        lease.release()
        return str(lease.model)

    @property
    def in_memory(self) -> set[str]:
        return {str(entry["key"]).removeprefix("e/") for entry in self.cache.entries()}

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(kind, key) for kind, key, _ in self.told]

    def hold_up(self, version: str) -> tuple[threading.Event, threading.Event]:
        """Make loads of a version wait; return what says that one began, and what lets it go on."""
        began, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            began.set()
            assert go_on.wait(DEADLINE_S)

        self.before[version] = wait
        return began, go_on

    def flip_and_hold_up(self) -> threading.Event:
        """Let name m stand for version 2, whose load has begun on return; it goes on once the event is set."""
        began, go_on = self.hold_up("m/2")
        self.use()
        self.flip("2")
        assert began.wait(DEADLINE_S)
        return go_on

    def fail(self, version: str) -> None:
        def refuse() -> None:
            raise ModelLoadFailed("no weights")

        self.before[version] = refuse

    def flip_in_vain(self) -> None:
        """Let name m stand for version 2, which does not load, and return when that was told."""
        self.fail("m/2")
        self.use()
        self.flip("2")
        wait_until(lambda: self.kinds == [("model_swap_failed", "m/2")])
        self.settle()

    def settle(self) -> None:
        """Return once no version is being loaded."""
        wait_until(lambda: not self.versions._loads)
