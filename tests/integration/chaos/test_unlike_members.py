"""Groups whose members differ: in tasks, in assignor, in topics, and that no worker is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError

from tests.integration.chaos.auditor import settled
from tests.integration.chaos.crew import Crew, answers_grow
from tests.integration.chaos.places import Place
from tests.integration.chaos.steady_load import SteadyLoad
from tests.integration.chaos.topic_changes import make
from tests.integration.worker_process import Site

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(900)]


async def test_workers_of_different_tasks_share_a_group(place: Place, tmp_path: Path) -> None:
    site = await place.site(tmp_path, partitions=3)
    async with Crew(site) as crew:
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=40), SteadyLoad(site, "sleepy", rate_per_s=40):
            for tasks in (["plain"], ["sleepy"], ["plain", "sleepy"]):
                crew.settings = {"INFERSTREAM_WORKER__TASKS": json.dumps(tasks)}
                await crew.join()
                for task in ("plain", "sleepy"):
                    await answers_grow(site, task, by=40)
            crew.kill()
            await crew.leave()
            for task in ("plain", "sleepy"):
                await answers_grow(site, task, by=40)
        audits = [await settled(site, task) for task in ("plain", "sleepy")]
        await crew.all_end_in_time()
    for found in audits:
        found.check()


async def test_members_that_are_no_workers_come_and_go(three_brokers: Place, tmp_path: Path) -> None:
    """One of another assignor is refused; one of ours with another topic takes part."""
    site = await three_brokers.site(tmp_path, partitions=4)
    other = site.topics.requests("other")
    await make(site, other)
    async with Crew(site) as crew:
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=40):
            await answers_grow(site, "plain", by=40)
            refused = member(site, other, RangePartitionAssignor)
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(5):
                    await refused.start()
                    await refused.getmany(timeout_ms=5000)
            await refused.stop()
            taking_part = member(site, other, RoundRobinPartitionAssignor)
            await taking_part.start()
            await crew.join()
            await answers_grow(site, "plain", by=80)
            await crew.leave()
            await taking_part.stop()
            await answers_grow(site, "plain", by=80)
        found = await settled(site, "plain")
        await crew.all_end_in_time()
    found.check()


def member(site: Site, topic: str, assignor: Any) -> Any:
    """Return a consumer of the workers' group that is not started yet."""
    return AIOKafkaConsumer(
        topic,
        bootstrap_servers=site.settings.kafka.bootstrap_servers,
        group_id=site.settings.kafka.group_id,
        enable_auto_commit=False,
        partition_assignment_strategy=[assignor],
        session_timeout_ms=6_000,
        heartbeat_interval_ms=1_000,
    )
