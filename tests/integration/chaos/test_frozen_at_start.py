"""Workers that start while one of three brokers is frozen: it takes connections and never answers."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from aiokafka.protocol.metadata import MetadataRequest

from streams.kafka import connection
from streams.kafka.topic_admin import check_rights, check_topics
from streams.kafka.topic_reader import TopicReader
from tests.integration.chaos.crew import Crew, coordinator
from tests.integration.chaos.deliveries import send_all, sleepy, until_all_is_committed
from tests.integration.chaos.places import TASKS, Place
from tests.integration.worker_process import PATIENCE_S, Site
from tests.kafka_cluster import RunningCluster

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

DRAWS = 6
"""How often the servers are shuffled anew: each time any may come first."""


async def leader(site: Site, topic: str) -> int:
    """Return the number of the node that leads partition 0 of `topic`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        [told] = await admin.describe_topics([topic])
        partitions: list[dict[str, Any]] = told["partitions"]
        found: dict[int, int] = {one["partition"]: one["leader"] for one in partitions}
        return found[0]
    finally:
        await admin.close()


async def until_all_know(site: Site, cluster: RunningCluster) -> None:
    """Wait until each broker knows the site's topics: one that was made a moment ago is new to some."""
    client = AIOKafkaClient(bootstrap_servers=site.settings.kafka.bootstrap_servers)
    await client.bootstrap()
    try:
        async with asyncio.timeout(PATIENCE_S):
            for node in cluster.nodes:
                while set(site.topics.all_of(TASKS)) - await names(client, node.number):
                    await asyncio.sleep(0.1)
    finally:
        await client.close()


async def names(client: AIOKafkaClient, node: int) -> set[str]:
    """Return the topics that a broker knows; none of one that is not back in the cluster since it was frozen."""
    try:
        answer = await client.send(node, MetadataRequest(None))
    except (NodeNotReadyError, KafkaConnectionError):
        await client.force_metadata_update()
        return set()
    return {topic for _, topic, *_ in answer.topics}


@pytest.mark.parametrize("frozen", ["coordinator", "leader"])
@pytest.mark.timeout(900)
async def test_a_worker_starts_and_answers_while_a_broker_is_frozen(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path, frozen: str
) -> None:
    site = await three_brokers.site(tmp_path, partitions=1)
    async with Crew(site) as crew:
        await crew.join()  # so that the group has a coordinator
        await crew.leave()
        requests = [sleepy(uuid.uuid4().hex, task="plain") for _ in range(20)]
        await send_all(site, requests)
        number = (
            await coordinator(site) if frozen == "coordinator" else await leader(site, site.topics.requests("plain"))
        )
        cluster.pause(number)
        await crew.join()
        await site.results("plain", [request.id for request in requests])
        cluster.resume(number)
        await until_all_is_committed(site, len(requests), task="plain")
        await crew.all_end_in_time()


@pytest.mark.timeout(900)
async def test_a_reader_begins_as_soon_as_a_frozen_leader_has_a_successor(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await three_brokers.site(tmp_path, partitions=6)
    await until_all_know(site, cluster)
    # A busy cluster takes longer to find another leader than to answer a client that connects.
    monkeypatch.setattr(connection, "_CONNECT_TIMEOUT_S", 4.0)
    cluster.pause(await leader(site, site.topics.events))
    async with TopicReader(site.settings.kafka, [site.topics.events]):
        pass


@pytest.mark.timeout(900)
async def test_topics_and_rights_are_told_while_a_broker_is_frozen(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=1)
    await until_all_know(site, cluster)
    cluster.pause(1)
    kafka = site.settings.kafka
    told = await asyncio.gather(*(check_topics(kafka, TASKS) for _ in range(DRAWS)))
    rights = await asyncio.gather(*(check_rights(kafka, TASKS) for _ in range(DRAWS)))
    assert told == [[]] * DRAWS
    assert not [one for one in rights if one.topics]
