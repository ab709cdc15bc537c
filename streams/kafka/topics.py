"""Every topic's name and shape, built here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must look like on the broker."""

    name: str
    partitions: int
    replication_factor: int


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
        """Messages of `requests(task)` from which no request, not even an id, could be read."""
        return f"{self.prefix}.dlq.{task}"

    @property
    def events(self) -> str:
        """Metrics events: one per request and outcome, model loads, worker starts and stops."""
        return f"{self.prefix}.events"


def expected_topics(
    topics: Topics, tasks: Iterable[str], *, partitions: int, replication_factor: int
) -> dict[str, TopicSpec]:
    """Return every topic that workers of `tasks` read or write, by name."""
    names = [topics.events]
    for task in tasks:
        names += [topics.requests(task), topics.results(task), topics.dead_letters(task)]
    return {name: TopicSpec(name, partitions, replication_factor) for name in names}
