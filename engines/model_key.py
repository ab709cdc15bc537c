"""What a model in memory is known by: which version it is, and for which engine and task it was loaded."""

from __future__ import annotations

import functools
from typing import NamedTuple

from engines.resolved_model import VersionId

Use = tuple[str, str]
"""What a model is loaded for: engine and task."""


ANY_TASK = "*"
"""In place of the task, where an engine's load does not depend on it."""


class ModelKey(NamedTuple):
    """The name of one loaded model in the cache, and of the lane in which requests for one of its tasks run.

    Shown as `engine/task/name/version`.
    """

    engine: str
    task: str
    name: str
    version: str
    origin: str

    @property
    def use(self) -> Use:
        """What the model is loaded for."""
        return self.engine, self.task

    @property
    def model(self) -> VersionId:
        """Which version is loaded."""
        return VersionId(self.name, self.version, self.origin)

    def __str__(self) -> str:
        return f"{self.engine}/{self.task}/{self.name}/{self.version}"


@functools.lru_cache(maxsize=1024)
def key_of(engine: str, task: str, version: VersionId) -> ModelKey:
    """Return the key of a version that an engine loads for a task; every request asks for one."""
    return ModelKey(engine, task, *version)
