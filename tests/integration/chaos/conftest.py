"""Brokers to kill, and a site for workers whose requests sleep as long as they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from deploy.local import KafkaRelease, LocalStack
from deploy.local.broker import Broker
from tests.integration.chaos.deliveries import WINDOW
from tests.integration.chaos.places import Place
from tests.integration.worker_process import Site
from tests.kafka_cluster import RunningCluster


@pytest.fixture
async def site(tmp_path: Path, local_stack: LocalStack, sleepy_model: str) -> Site:
    made = Site(
        tmp_path,
        local_stack.settings(),
        worker={
            "plugins": ["tests.plugins.sleepy"],
            "tasks": ["sleepy", "plain"],
            "max_in_flight": WINDOW,
            "batch_max_items": 1,
        },
    )
    await made.create_topics(["sleepy", "plain"])
    return made


@pytest.fixture(scope="package")
def cluster(kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Three running brokers of Apache Kafka, shared by the tests of this folder; skips where there is no release."""
    if kafka_release is None:
        pytest.skip("no release of Apache Kafka is named to run three brokers of")
    with RunningCluster(tmp_path_factory.mktemp("kafka"), kafka_release, brokers=3) as cluster:
        yield cluster


@pytest.fixture
def three_brokers(cluster: RunningCluster, local_stack: LocalStack, sleepy_model: str) -> Iterator[Place]:
    """Three brokers of Apache Kafka; those that a test killed or froze run again after it."""
    yield Place({**local_stack.settings(), **cluster.settings()})
    for node in cluster.nodes:
        if node.pid is not None:
            cluster.resume(node.number)
    if dead := [node.number for node in cluster.nodes if node.pid is None]:
        cluster.restart(*dead)


@pytest.fixture(scope="package")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """An embedded broker of this folder's own."""
    broker = Broker(tmp_path_factory.mktemp("embedded"), on_status=lambda status: None, abandon=Event())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(params=["three_brokers", "embedded"])
def place(request: pytest.FixtureRequest, local_stack: LocalStack, sleepy_model: str) -> Place:
    """Each kind of broker in turn."""
    if request.param == "three_brokers":
        return request.getfixturevalue("three_brokers")  # type: ignore[no-any-return]
    broker: Broker = request.getfixturevalue("embedded_broker")
    return Place({**local_stack.settings(), **broker.settings()})
