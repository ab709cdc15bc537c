"""A cluster of Apache Kafka of a test's own, whose nodes can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event
from typing import Any, Self

from deploy.local import KafkaCluster, KafkaRelease, StackError
from deploy.local.kafka_cluster import KafkaNode
from deploy.local.part import start_together
from tests.processes import freeze


class RunningCluster(KafkaCluster):
    """`with RunningCluster(root, release, brokers=3) as kafka: ...`; one call at a time for a node."""

    def __init__(
        self,
        root: Path,
        release: KafkaRelease,
        *,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(root, release, brokers=brokers, on_status=lambda status: None, abandon=Event())
        self.properties = dict(properties or {})

    def settings(self) -> dict[str, Any]:
        """Return the settings that point a worker at this cluster."""
        return self.nodes[0].settings()

    @property
    def kafka(self) -> dict[str, Any]:
        """The section `kafka` of a worker's settings."""
        section: dict[str, Any] = self.settings()["kafka"]
        return section

    @property
    def bootstrap_servers(self) -> str:
        return str(self.kafka["bootstrap_servers"])

    def start(self) -> None:
        """Start the nodes side by side and return when each serves clients."""
        try:
            start_together(self.nodes)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill all nodes and return when they are gone; harmless when repeated."""
        self.kill(*range(1, len(self.nodes) + 1))

    def kill(self, *numbers: int) -> None:
        """Kill these nodes as a power cut would, frozen ones too."""
        for node in self._these(numbers):
            node.stop()

    def pause(self, *numbers: int) -> None:
        """Freeze these nodes (SIGSTOP): their connections stay open and nothing answers."""
        for node in self._these(numbers):
            freeze(_pid(node))

    def resume(self, *numbers: int) -> None:
        """Let these frozen nodes go on (SIGCONT)."""
        for node in self._these(numbers):
            os.kill(_pid(node), signal.SIGCONT)

    def restart(self, *numbers: int) -> None:
        """Kill these nodes where they run, start them side by side, and return when each serves clients.

        Two of three nodes must be up for any to become ready: name all that are needed for that at once.
        """
        self.kill(*numbers)
        start_together(self._these(numbers))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _these(self, numbers: Iterable[int]) -> list[KafkaNode]:
        return [self.nodes[number - 1] for number in numbers]


def _pid(node: KafkaNode) -> int:
    if node.pid is None:
        raise StackError(f"{node.name}: it does not run; start it with restart({node.number})")
    return node.pid
