"""Deletes, makes and cuts topics as an operator would, and asks for the requests around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from tests.integration.chaos.auditor import read_whole
from tests.integration.chaos.deliveries import send_all, sleepy
from tests.integration.worker_process import PATIENCE_S, Site

PARTITIONS = 4


@asynccontextmanager
async def admin_of(site: Site) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete(site: Site, topic: str) -> None:
    """Delete a topic; it can be made again at once."""
    async with admin_of(site) as admin:
        await admin.delete_topics([topic])


async def make(site: Site, topic: str, partitions: int = PARTITIONS) -> None:
    """Make a topic and return once it has leaders."""
    async with admin_of(site) as admin:
        answer = await admin.create_topics([NewTopic(topic, partitions, 3)])
        assert [entry[1] for entry in answer.topic_errors] == [0], answer
        late = time.monotonic() + PATIENCE_S
        while True:
            (found,) = await admin.describe_topics([topic])
            if found["partitions"] and all(one["leader"] >= 0 for one in found["partitions"]):
                return
            assert time.monotonic() < late, f"{topic} has no leaders"
            await asyncio.sleep(0.1)


async def ask(site: Site, ids: Iterable[str], task: str = "plain") -> None:
    await send_all(site, [sleepy(identity, task=task) for identity in ids])


def numbered(name: str, count: int) -> list[str]:
    return [f"{name}{number}" for number in range(count)]


async def cut(site: Site, topic: str, leave: int) -> None:
    """Delete all records of each partition of `topic` but the last `leave`."""
    ends: dict[TopicPartition, int] = {}
    for record in await read_whole(site, topic):
        ends[TopicPartition(topic, record.partition)] = record.offset + 1
    async with admin_of(site) as admin:
        await admin.delete_records(
            {one: RecordsToDelete(before_offset=max(0, end - leave)) for one, end in ends.items()}
        )
