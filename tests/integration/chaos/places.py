"""The brokers that a chaos test runs on, and sites on them with short sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.worker_process import Site

TASKS = ["sleepy", "plain"]
DRAIN_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """A broker, or several, with the stack's S3 store and registry beside it."""

    settings: dict[str, dict[str, Any]]
    """What reaches all of them; the group's sessions are as short as brokers allow."""

    async def site(self, directory: Path, *, partitions: int, **kafka: Any) -> Site:
        """Return a site with topics of so many partitions for the two tasks of `tests.plugins.sleepy`."""
        worker = {"plugins": ["tests.plugins.sleepy"], "tasks": TASKS, "drain_timeout_s": DRAIN_TIMEOUT_S}
        site = Site(directory, self.settings, kafka={"partitions": partitions, **kafka}, worker=worker)
        await site.create_topics(TASKS)
        return site
