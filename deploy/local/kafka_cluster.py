"""Apache Kafka on this machine: one broker or three."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from deploy.local.kafka_probe import live_brokers
from deploy.local.kafka_release import KafkaRelease
from deploy.local.part import Part, PartStatus, StackError
from deploy.local.ports import HOST

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

    Topics are not created automatically. With three brokers every topic has three copies, of which two must be in
    sync. Data is kept for the next start on the same root, separately for one and for three brokers.
    """

    def __init__(
        self,
        root: Path,
        release: KafkaRelease,
        *,
        brokers: int = 1,
        on_status: Callable[[PartStatus], None],
        abandon: Event,
    ) -> None:
        """`on_status` and `abandon` are those of the nodes.

        Raises:
            StackError: permanent; neither one broker nor three.
        """
        if brokers not in (1, 3):
            raise StackError(
                f"kafka: {brokers} brokers are not offered; take 1, or 3, which survive the loss of any one"
            )
        self.release = release
        self.properties: dict[str, str] = {}
        """Properties of the brokers, added to the defaults."""
        self.nodes = tuple(
            KafkaNode(
                root,
                self,
                number,
                "broker" if brokers == 1 else f"broker-{number}",
                on_status=on_status,
                abandon=abandon,
            )
            for number in range(1, brokers + 1)
        )
        """The brokers, numbered from 1; one that was killed restarts at the same address."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that point a worker at this cluster."""
        kafka = {
            "bootstrap_servers": ",".join(node.address for node in self.nodes),
            "replication_factor": len(self.nodes),
            # On one machine a minute is too long to wait for a killed worker's requests.
            "session_timeout_s": 6,
            "heartbeat_interval_s": 2,
        }
        return {"kafka": kafka}


class KafkaNode(Part):
    """One broker of a cluster. Its ports are chosen early: each node must know those of the others before it starts."""

    start_timeout_s = 120.0
    port_names = ("main", "controller")

    def __init__(self, root: Path, cluster: KafkaCluster, number: int, name: str, **of_a_part: Any) -> None:
        self.name = name
        self.number = number
        self._cluster = cluster
        super().__init__(root, **of_a_part)
        self.ports = self.choose_ports()
        self._config_path = self.directory / "server.properties"
        self._logging_path = self.directory / "log4j2.properties"
        self._data = self.directory / "data"

    def settings(self) -> dict[str, Any]:
        return self._cluster.settings()

    def prepare(self) -> None:
        """Write the settings and, the first time, format the data folder."""
        lines = {**self._properties(), **self._cluster.properties}
        self._config_path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self._logging_path.write_text(_LOGGING)
        if not (self._data / "meta.properties").exists():
            arguments = ("format", "--cluster-id", _CLUSTER_ID, "--config", str(self._config_path))
            self.run(self._java("kafka.tools.StorageTool", *arguments))

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self._config_path))

    def is_healthy(self) -> bool:
        """Ask it for the live brokers: it names itself once the controllers accept it."""
        return self.number in live_brokers(self.ports["main"])

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        logging = (f"-Dlog4j2.configurationFile={self._logging_path}",)
        return self._cluster.release.command(main_class, *arguments, options=logging)

    def _properties(self) -> dict[str, str]:
        nodes = self._cluster.nodes
        voters = [f"{node.number}@{HOST}:{node.ports['controller']}" for node in nodes]
        copies = len(nodes)
        in_sync = max(1, copies - 1)
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(voters),
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
            # A killed broker may restart only after the controllers have missed it for this long.
            "broker.session.timeout.ms": "5000",
            "broker.heartbeat.interval.ms": "1000",
            # The first member of a group need not wait for others.
            "group.initial.rebalance.delay.ms": "0",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": str(16 * 1024**2),
        }
