"""Brokers for clients: three of Apache Kafka where a release is named, else the embedded one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from deploy.local import KafkaRelease, LocalStack
from streams.kafka.topic_admin import create_topics
from streams.settings import KafkaSettings
from tests.kafka_cluster import RunningCluster


@pytest.fixture(scope="module")
def cluster(
    kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCluster | None]:
    """Three brokers of Apache Kafka where a release is named; a test that stops one starts it again."""
    if kafka_release is None:
        yield None
        return
    with RunningCluster(tmp_path_factory.mktemp("client-kafka"), kafka_release, brokers=3) as cluster:
        yield cluster


@pytest.fixture
async def kafka(cluster: RunningCluster | None, request: pytest.FixtureRequest) -> KafkaSettings:
    """Topics of a test's own for task `echo`."""
    if cluster is None:
        stack: LocalStack = request.getfixturevalue("local_stack")
        where = stack.settings()["kafka"]
    else:
        where = cluster.kafka
    prefix = f"t{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(**where, topic_prefix=prefix, partitions=2, producer_timeout_s=10)
    await create_topics(settings, ["echo"])
    return settings


@pytest.fixture
def killable(cluster: RunningCluster | None) -> RunningCluster:
    if cluster is None:
        pytest.skip("only Apache Kafka has several brokers, adds partitions and keeps what it has")
    return cluster
