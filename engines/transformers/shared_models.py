"""Models that several tasks share: in memory once, until the last of those tasks releases it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_Model = TypeVar("_Model")


@dataclass(slots=True, eq=False)
class _Shared:
    loading: threading.Lock = field(default_factory=threading.Lock)
    model: Any = None
    users: int = 0


class SharedModels:
    """The models in memory that tasks share, by the folder that each was loaded from. Thread-safe. A model is loaded
    in the thread of its first caller; only callers of the same model wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[tuple[Hashable, str], _Shared] = {}

    def holds(self, folder: Path) -> bool:
        with self._lock:
            return any(identity == _identity(folder) for identity, _ in self._shared)

    def take(self, folder: Path, load: Callable[[], _Model], *, part: str = "") -> tuple[_Model, Callable[[], None]]:
        """Return the model in `folder`, loaded by `load` where needed, and the function that releases it.

        The last release closes the model. `part` separates several models of one folder.

        Raises:
            Exception: whatever `load` raises; the next caller tries again.
        """
        key = _identity(folder), part
        with self._lock:
            shared = self._shared.setdefault(key, _Shared())
            shared.users += 1
        try:
            with shared.loading:
                if shared.model is None:
                    shared.model = load()
                return shared.model, lambda: self._let_go(key, shared)
        except BaseException:
            self._let_go(key, shared)
            raise

    def _let_go(self, key: tuple[Hashable, str], shared: _Shared) -> None:
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            del self._shared[key]
        if shared.model is not None:
            shared.model.close()
            shared.model = None


def _identity(folder: Path) -> Hashable:
    """Return a value that changes when another folder takes this one's place: a model may be registered again."""
    stat = folder.stat()
    return folder, stat.st_dev, stat.st_ino, stat.st_mtime_ns
