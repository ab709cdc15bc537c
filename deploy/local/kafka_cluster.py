"""Apache Kafka on this machine: one broker or three, each of which can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event, Lock
from typing import Any, Self

from deploy.local.kafka_probe import live_brokers
from deploy.local.kafka_release import KafkaRelease
from deploy.local.part import Part, PartStatus, StackError, start_together
from deploy.local.ports import HOST, free_ports

_SIZES = (1, 3)
_PORT_NAMES = ("main", "controller")
_CLUSTER_ID = "inferstream-local-kafk"  # 22 characters of base64url, whichever
_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
logger.settings.name = org.apache.kafka.common.config
logger.settings.level = WARN
logger.server_settings.name = kafka.server.KafkaConfig
logger.server_settings.level = WARN
"""


class KafkaCluster:
    """Brokers of Apache Kafka that are controllers too (KRaft), on loopback, with their data under `root`.

    A part of a `LocalStack`, or alone: `with KafkaCluster(root, release, brokers=3) as kafka: ...`. Topics are
    not created by being asked for. With three brokers every topic has three copies, of which two must have
    what a producer sends. Data is kept: the next start on the same root finds it, one broker's and three
    brokers' apart from each other. Nodes are numbered from 1. Methods may be called from any thread, one at
    a time for a node.
    """

    def __init__(
        self,
        root: Path,
        release: KafkaRelease,
        *,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        on_status: Callable[[PartStatus], None] = lambda status: None,
        abandon: Event | None = None,
    ) -> None:
        """`properties` are the brokers' own, on top of those given here; setting `abandon` ends a start.

        Raises:
            StackError: permanent; neither one broker nor three.
        """
        if brokers not in _SIZES:
            raise StackError(
                f"kafka: {brokers} brokers are not offered; take 1, or 3, which survive the loss of any one"
            )
        self.release = release
        self.properties = properties or {}
        self._ports: dict[int, dict[str, int]] = {}
        self._lock = Lock()
        abandon = Event() if abandon is None else abandon
        self.nodes = tuple(
            KafkaNode(
                root, self, number, "broker" if brokers == 1 else f"broker-{number}", on_status, abandon
            )
            for number in range(1, brokers + 1)
        )
        """The brokers; a node that was killed comes back at the same address."""

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all nodes, `host:port,host:port`; empty before the first start."""
        return ",".join(node.address for node in self.nodes if node.address)

    @property
    def replication_factor(self) -> int:
        """Copies of each topic."""
        return len(self.nodes)

    def settings(self) -> dict[str, Any]:
        """Return the `kafka` settings that point a worker at this cluster; only after `start`."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "replication_factor": self.replication_factor,
            # On one machine nobody waits a minute for a killed worker's requests.
            "session_timeout_s": 6,
            "heartbeat_interval_s": 2,
        }

    def start(self) -> None:
        """Start the nodes side by side and return when each serves clients.

        Raises:
            StackError: permanent; one did not start. Nothing is left running.
        """
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
        self._signal(numbers, signal.SIGSTOP)

    def resume(self, *numbers: int) -> None:
        """Let these frozen nodes go on (SIGCONT)."""
        self._signal(numbers, signal.SIGCONT)

    def restart(self, *numbers: int) -> None:
        """Kill these nodes where they run, start them side by side, and return when each serves clients.

        Two of three nodes must be up for any to become ready: name all that are needed for that at once.

        Raises:
            StackError: permanent; one did not start.
        """
        self.kill(*numbers)
        start_together(self._these(numbers))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ports_of(self, number: int) -> dict[str, int]:
        """Return the ports of a node, chosen for all together: each must know the others' before it starts."""
        with self._lock:
            if not any(node.ports for node in self.nodes):
                self._ports = {
                    node.number: dict(zip(_PORT_NAMES, free_ports(len(_PORT_NAMES)), strict=True))
                    for node in self.nodes
                }
            return self._ports[number]

    def voters(self) -> str:
        """Return the controllers as Kafka writes them: `1@host:port,2@host:port`."""
        return ",".join(f"{node}@{HOST}:{ports['controller']}" for node, ports in self._ports.items())

    def _these(self, numbers: Iterable[int]) -> list[KafkaNode]:
        return [self.nodes[number - 1] for number in numbers]

    def _signal(self, numbers: Iterable[int], which: signal.Signals) -> None:
        for node in self._these(numbers):
            if node.pid is None:
                raise StackError(f"{node.name}: it does not run; start it with restart({node.number})")
            os.kill(node.pid, which)


class KafkaNode(Part):
    """One broker of a cluster."""

    start_timeout_s = 120.0
    port_names = _PORT_NAMES

    def __init__(
        self,
        root: Path,
        cluster: KafkaCluster,
        number: int,
        name: str,
        on_status: Callable[[PartStatus], None],
        abandon: Event,
    ) -> None:
        self.name = name
        self.number = number
        self._cluster = cluster
        super().__init__(root, on_status=on_status, abandon=abandon)
        self._config_path = self.directory / "server.properties"
        self._logging_path = self.directory / "log4j2.properties"
        self._data = self.directory / "data"

    def choose_ports(self) -> dict[str, int]:
        return self._cluster.ports_of(self.number)

    def prepare(self) -> None:
        lines = {**self._properties(), **self._cluster.properties}
        self._config_path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self._logging_path.write_text(_LOGGING)

    def first_command(self) -> list[str] | None:
        """Give the data folder its identity, the first time."""
        if (self._data / "meta.properties").exists():
            return None
        arguments = ("format", "--cluster-id", _CLUSTER_ID, "--config", str(self._config_path))
        return self._run("kafka.tools.StorageTool", *arguments)

    def command(self) -> list[str]:
        return self._run("kafka.Kafka", str(self._config_path))

    def is_healthy(self) -> bool:
        """Ask it who serves clients: it names itself once the controllers let it."""
        return self.number in live_brokers(self.ports["main"])

    def _run(self, main_class: str, *arguments: str) -> list[str]:
        logging = (f"-Dlog4j2.configurationFile={self._logging_path}",)
        return self._cluster.release.command(main_class, *arguments, options=logging)

    def _properties(self) -> dict[str, str]:
        copies = self._cluster.replication_factor
        in_sync = max(1, copies - 1)
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": self._cluster.voters(),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{HOST}:{self.ports['controller']}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._data),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(copies),
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(in_sync),
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": str(copies),
            "share.coordinator.state.topic.min.isr": str(in_sync),
            # A broker that was killed may come back only when the controllers have missed it for so long.
            "broker.session.timeout.ms": "5000",
            "broker.heartbeat.interval.ms": "1000",
            # The first member of a group need not wait for others.
            "group.initial.rebalance.delay.ms": "0",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": str(16 * 1024**2),
        }
