"""The names of all topics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes for one."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics under one prefix."""

    prefix: str = "inference"

    def requests(self, task: str) -> str:
        """Requests for `task`, consumed by the workers."""
        return f"{self.prefix}.requests.{task}"

    def results(self, task: str) -> str:
        """One result per request for `task`, under the request's key."""
        return f"{self.prefix}.results.{task}"

    def dead_letters(self, task: str) -> str:
        """Records of `requests(task)` that could not be read as a request with an id."""
        return f"{self.prefix}.dlq.{task}"

    @property
    def events(self) -> str:
        """Metrics events: one per request and outcome, model loads, worker starts and stops."""
        return f"{self.prefix}.events"

    def all_of(self, tasks: Iterable[str]) -> list[str]:
        """Every topic that workers of `tasks` read or write."""
        names = [self.events]
        for task in tasks:
            names += [self.requests(task), self.results(task), self.dead_letters(task)]
        return names
