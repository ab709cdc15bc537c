"""Apache Kafka as the local stack starts it: its nodes die, freeze and come back, and its data is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local import KafkaRelease
from deploy.local.ports import live_brokers
from tests.kafka_cluster import RunningCluster


@pytest.fixture
def release(kafka_release: KafkaRelease | None) -> KafkaRelease:
    if kafka_release is None:
        pytest.skip("no release of Apache Kafka is named")
    return kafka_release


async def put(servers: str, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, 1, 1)])
        assert [entry[1] for entry in answer.topic_errors] == [0]
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(topic, value)


async def first_of(servers: str, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(60):
            record = await consumer.getone()
        value: bytes | None = record.value
        return value
    finally:
        await consumer.stop()


def test_a_node_dies_freezes_and_returns_at_its_address_and_data_outlives_the_cluster(
    release: KafkaRelease, tmp_path: Path
) -> None:
    with RunningCluster(tmp_path, release) as kafka:
        address, (node,) = kafka.bootstrap_servers, kafka.nodes
        asyncio.run(put(address, "kept", b"value"))
        kafka.kill(1)
        assert node.pid is None
        assert node.status == "stopped"
        kafka.restart(1)
        assert kafka.bootstrap_servers == address
        assert asyncio.run(first_of(address, "kept")) == b"value"
        kafka.pause(1)
        with pytest.raises(TimeoutError):
            live_brokers(node.ports["main"])
        kafka.resume(1)
        assert asyncio.run(first_of(address, "kept")) == b"value"
        kafka.pause(1)  # a frozen node is killed as well
    assert node.pid is None
    with RunningCluster(tmp_path, release) as kafka:
        assert asyncio.run(first_of(kafka.bootstrap_servers, "kept")) == b"value"
