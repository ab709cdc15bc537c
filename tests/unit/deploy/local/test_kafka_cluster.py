"""What the nodes of a Kafka cluster are told; that they run, die and come back is tested with the real thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local import KafkaRelease, LocalStack, StackError
from deploy.local.kafka_cluster import KafkaNode
from tests.kafka_cluster import RunningCluster

RELEASE = KafkaRelease(libs=Path("/opt/kafka/libs"), java=Path("/usr/bin/java"))


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What was run before a node starts."""
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(KafkaNode, "run", lambda self, argv: commands.append(argv))
    return commands


def prepared(cluster: RunningCluster) -> list[dict[str, str]]:
    """Return the properties of each node."""
    found = []
    for node in cluster.nodes:
        node.directory.mkdir(parents=True)
        node.prepare()
        lines = (node.directory / "server.properties").read_text().splitlines()
        found.append(dict(line.split("=", 1) for line in lines))
    return found


def test_three_brokers_know_each_other_and_keep_three_copies(tmp_path: Path) -> None:
    cluster = RunningCluster(tmp_path, RELEASE, brokers=3)
    nodes = prepared(cluster)
    assert [node["node.id"] for node in nodes] == ["1", "2", "3"]
    (voters,) = {node["controller.quorum.voters"] for node in nodes}
    controllers = [f"{number}@127.0.0.1:{cluster.nodes[number - 1].ports['controller']}" for number in (1, 2, 3)]
    assert voters == ",".join(controllers)
    for node in nodes:
        assert (node["default.replication.factor"], node["min.insync.replicas"]) == ("3", "2")
        assert node["auto.create.topics.enable"] == "false"
    assert len({port for node in cluster.nodes for port in node.ports.values()}) == 6
    assert len({node["log.dirs"] for node in nodes}) == 3
    assert cluster.kafka["replication_factor"] == 3
    assert cluster.bootstrap_servers.split(",") == [node.address for node in cluster.nodes]


def test_one_broker_keeps_one_copy_and_its_data_apart_from_that_of_three(tmp_path: Path) -> None:
    (one,) = prepared(RunningCluster(tmp_path, RELEASE))
    three = prepared(RunningCluster(tmp_path, RELEASE, brokers=3))
    assert (one["default.replication.factor"], one["min.insync.replicas"]) == ("1", "1")
    assert one["log.dirs"] not in {node["log.dirs"] for node in three}


def test_only_an_unformatted_data_folder_is_formatted(tmp_path: Path, ran: list[Sequence[str]]) -> None:
    cluster = RunningCluster(tmp_path, RELEASE)
    (properties,) = prepared(cluster)
    (node,) = cluster.nodes
    assert ["kafka.tools.StorageTool" in command for command in ran] == [True]
    Path(properties["log.dirs"]).mkdir()
    (Path(properties["log.dirs"]) / "meta.properties").touch()
    node.prepare()
    assert len(ran) == 1


def test_properties_of_ones_own_go_over_the_usual_ones(tmp_path: Path) -> None:
    (node,) = prepared(RunningCluster(tmp_path, RELEASE, properties={"auto.create.topics.enable": "true"}))
    assert node["auto.create.topics.enable"] == "true"


@pytest.mark.parametrize("brokers", [0, 2, 4])
def test_there_is_one_broker_or_three(tmp_path: Path, brokers: int) -> None:
    with pytest.raises(StackError, match=f"{brokers} brokers are not offered; take 1, or 3"):
        RunningCluster(tmp_path, RELEASE, brokers=brokers)


def test_a_node_that_does_not_run_cannot_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"broker-2: it does not run; start it with restart\(2\)"):
        RunningCluster(tmp_path, RELEASE, brokers=3).pause(2)


def test_a_stack_has_a_part_for_each_broker(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, kafka=RELEASE, brokers=3)
    assert [part.name for part in stack.parts] == ["broker-1", "broker-2", "broker-3", "s3", "mlflow"]
    assert [part.name for part in LocalStack(tmp_path, kafka=RELEASE).parts] == ["broker", "s3", "mlflow"]


def test_the_embedded_broker_is_always_one(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="3 brokers need Apache Kafka; the embedded broker is always one"):
        LocalStack(tmp_path, brokers=3)
