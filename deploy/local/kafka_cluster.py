"""Apache Kafka on this machine: an unpacked release, and one broker of it or three."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deploy.local.part import Part, StackError
from deploy.local.ports import HOST, live_brokers

_OLDEST_JAVA = 17
"""What the brokers of Kafka 4 need."""
_CURE = f"install a JRE of version {_OLDEST_JAVA} or newer (Debian: openjdk-17-jre-headless), or set JAVA_HOME to one"
_ASKING_TIMEOUT_S = 30.0
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


@dataclass(frozen=True, slots=True)
class KafkaRelease:
    """The folder of Kafka's jars, and the `java` that starts them; `find` checks both."""

    libs: Path
    java: Path

    @classmethod
    def find(cls, home: Path) -> Self:
        """Return the release unpacked in `home`: a folder whose `libs/` holds the jars of Kafka 4.

        Raises:
            StackError: permanent; `home` is not such a folder, or there is no Java that is new enough.
        """
        libs = home.absolute() / "libs"
        if not any(libs.glob("*.jar")):
            raise StackError(
                f"kafka: {home} is not an unpacked release of Apache Kafka: it has no libs/ with jars in it; "
                "name the folder into which its archive was unpacked"
            )
        return cls(libs, _find_java())

    def command(self, main_class: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the command line of one of Kafka's programs, with little memory and a quick start."""
        return [
            *(str(self.java), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("-Djava.net.preferIPv4Stack=true", *options),
            *("-cp", str(self.libs / "*"), main_class, *arguments),
        ]


def _find_java() -> Path:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no `java` on the PATH"
        raise StackError(f"kafka: {where}; {_CURE}")
    java = Path(found).absolute()
    try:
        said = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=_ASKING_TIMEOUT_S, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"kafka: {java} does not run: {error}; {_CURE}") from error
    # 17.0.15, 21, 25-ea; before 9 it was 1.8.0_392.
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None:
        raise StackError(f"kafka: {java} does not say which version it is, but: {said.strip()}; {_CURE}")
    if int(version[1]) < _OLDEST_JAVA:
        raise StackError(f"kafka: {java} is Java {version[1]}, Kafka needs {_OLDEST_JAVA} or newer; {_CURE}")
    return java


class KafkaCluster:
    """Brokers of Apache Kafka that are controllers too (KRaft), on loopback, with their data under `root`.

    Topics are not created automatically. With three brokers every topic has three copies, of which two must be in
    sync. Data is kept for the next start on the same root, separately for one and for three brokers.
    """

    def __init__(self, root: Path, release: KafkaRelease, *, brokers: int = 1, **of_a_part: Any) -> None:
        """`of_a_part`, `on_status` and `abandon`, goes to each node.

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
            KafkaNode(root, self, number, "broker" if brokers == 1 else f"broker-{number}", **of_a_part)
            for number in range(1, brokers + 1)
        )
        """The brokers, numbered from 1; one that was killed restarts at the same address."""


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
        nodes = self._cluster.nodes
        kafka = {
            "bootstrap_servers": ",".join(node.address for node in nodes),
            "replication_factor": len(nodes),
            # On one machine a minute is too long to wait for a killed worker's requests.
            "session_timeout_s": 6,
            "heartbeat_interval_s": 2,
        }
        return {"kafka": kafka}

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
        copies, in_sync = len(nodes), max(1, len(nodes) - 1)
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
