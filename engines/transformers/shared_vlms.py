"""Vision-language models that several tasks ask: in memory once, until the last of those tasks lets go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.transformers.vlm import VisionLanguageRunner


@dataclass(slots=True, eq=False)
class _Shared:
    loading: threading.Lock = field(default_factory=threading.Lock)
    runner: VisionLanguageRunner | None = None
    users: int = 0


class SharedVlms:
    """The vision-language models in memory, by the folder that each was loaded from. Thread-safe.

    A model is loaded in the thread of who first asks for it; only those who ask for the same one wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[Hashable, _Shared] = {}

    def holds(self, folder: Path) -> bool:
        """Return whether the model of `folder` is in memory, or on its way there."""
        with self._lock:
            return _identity(folder) in self._shared

    def take(
        self, folder: Path, load: Callable[[], VisionLanguageRunner]
    ) -> tuple[VisionLanguageRunner, Callable[[], None]]:
        """Return the runner of the model in `folder`, loaded where nobody has, and what lets go of it.

        Raises:
            Exception: whatever `load` raises; the next who asks tries again.
        """
        identity = _identity(folder)
        with self._lock:
            shared = self._shared.setdefault(identity, _Shared())
            shared.users += 1
        try:
            with shared.loading:
                if shared.runner is None:
                    shared.runner = load()
                return shared.runner, lambda: self._let_go(identity, shared)
        except BaseException:
            self._let_go(identity, shared)
            raise

    def _let_go(self, identity: Hashable, shared: _Shared) -> None:
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            del self._shared[identity]
        if shared.runner is not None:
            shared.runner.close()
            shared.runner = None


def _identity(folder: Path) -> Hashable:
    """Return what tells the folder from another that took its place: a model may be registered anew."""
    stat = folder.stat()
    return folder, stat.st_dev, stat.st_ino, stat.st_mtime_ns
