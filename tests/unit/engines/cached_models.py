"""Models that know what becomes of them, for tests of the cache, and how to wait for what threads do with them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engines.cache.cached_model import Loaded
from engines.cache.model_cache import MakeRoom, ModelCache

DEADLINE_S = 20.0


@dataclass
class Model:
    """A model that knows whether it was unloaded, and whether somebody runs it."""

    key: str
    unloaded: bool = False
    running: threading.Lock = field(default_factory=threading.Lock)


class Models:
    """Loads and unloads models for a cache, and counts both."""

    def __init__(self, cache: ModelCache, *, size: int = 1) -> None:
        self.cache = cache
        self.size = size
        self.loads: Counter[str] = Counter()
        self.unloads: Counter[str] = Counter()

    def lease(
        self,
        key: str,
        *,
        before: Callable[[], object] | None = None,
        size: int | None = None,
        device: str = "cpu",
        expected: int | None = None,
        meanwhile: Callable[[], object] | None = None,
        is_here: bool = True,
    ) -> Any:
        """Lease a model whose load calls `meanwhile`, has room made for what is `expected`, calls `before` and ends.

        No room is made where the model is not here, but at a server of its own.
        """

        def load(make_room: MakeRoom) -> Loaded:
            self.loads[key] += 1
            if meanwhile is not None:
                meanwhile()
            if is_here:
                make_room(expected or 0, "" if expected is None else device)
            if before is not None:
                before()
            return Loaded(Model(key), self.size if size is None else size, device)

        return self.cache.lease(key, load, self.unload)

    def use(self, key: str, **how: Any) -> Model:
        with self.lease(key, **how) as model:
            assert isinstance(model, Model)
            assert not model.unloaded
            return model

    def unload(self, model: Model) -> None:
        assert not model.running.locked(), "unloaded while in use"
        model.unloaded = True
        self.unloads[model.key] += 1


def keys(cache: ModelCache) -> list[str]:
    return [entry["key"] for entry in cache.entries()]


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` holds; fail past the deadline."""
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("the condition never came true")
