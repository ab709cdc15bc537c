"""Workers that join, leave and are restarted one by one while brokers are frozen or away: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.integration.chaos.crew import Crew, answers_grow, coordinator
from tests.integration.chaos.places import Place
from tests.integration.chaos.steady_load import SteadyLoad
from tests.integration.worker_process import PATIENCE_S, Site
from tests.kafka_cluster import RunningCluster

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "0"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
RATE_PER_S = 40
PARTITIONS = 6
AWAY_S = 12.0
"""How long all brokers stay away: longer than a session of the group lasts."""


@pytest.mark.timeout(900 + 120 * ROUNDS)
async def test_joins_and_leaves_while_one_node_is_frozen_cost_no_request(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS)
    async with Crew(site) as crew:
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=RATE_PER_S) as load:
            await answers_grow(site, "plain", by=RATE_PER_S)
            for number in range(ROUNDS or 1):
                node = number % len(cluster.nodes) + 1
                cluster.pause(node)
                await crew.join()
                await answers_grow(site, "plain", by=RATE_PER_S)
                await until_another_coordinates(site, node)  # else what is answered cannot be committed in time
                await crew.leave()
                cluster.resume(node)
                await answers_grow(site, "plain", by=RATE_PER_S)
        found = await crew.ends_with_all_answered()
    assert not found.unasked
    assert found.requests >= len(load.acknowledged) > RATE_PER_S


@pytest.mark.timeout(900 + 120 * ROUNDS)
async def test_all_brokers_away_while_a_worker_joins_cost_no_request(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS)
    chance = random.Random(SEED)
    async with Crew(site) as crew:
        await crew.join()
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=RATE_PER_S) as load:
            for number in range(ROUNDS or 1):
                await answers_grow(site, "plain", by=RATE_PER_S)
                joining = crew.start()
                if number % 2:
                    await asyncio.sleep(chance.uniform(1.0, 6.0))  # somewhere in the checks of its start
                else:
                    await until_the_group_rebalances(site)
                    await asyncio.sleep(chance.uniform(0.0, 0.5))
                await asyncio.to_thread(cluster.kill, 1, 2, 3)
                await asyncio.sleep(AWAY_S)
                await asyncio.to_thread(cluster.restart, 1, 2, 3)
                await answers_grow(site, "plain", by=RATE_PER_S)
                # One that had not reached a broker yet says so and ends; any other goes on.
                if (status := joining.process.poll()) is not None:
                    assert status == 1, joining.log[-4000:]
                    assert "no broker" in joining.log, joining.log[-4000:]
                    crew.workers.remove(joining)
                else:
                    await crew.leave()
        found = await crew.ends_with_all_answered()
    assert found.requests >= len(load.acknowledged) > RATE_PER_S


@pytest.mark.timeout(900 + 120 * ROUNDS)
@pytest.mark.parametrize("is_static", [False, True], ids=["dynamic", "static"])
async def test_a_rolling_restart_of_three_workers_costs_no_request(
    three_brokers: Place, tmp_path: Path, is_static: bool
) -> None:
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS)
    async with Crew(site) as crew:

        async def join(number: int) -> None:
            if is_static:
                crew.settings = {"INFERSTREAM_KAFKA__GROUP_INSTANCE_ID": f"member-{number}"}
            await crew.join()

        for number in range(3):
            await join(number)
        async with SteadyLoad(site, "plain", rate_per_s=RATE_PER_S) as load:
            for _ in range(ROUNDS or 1):
                for number in range(3):
                    await answers_grow(site, "plain", by=RATE_PER_S)
                    await crew.leave()
                    await join(number)
            await answers_grow(site, "plain", by=RATE_PER_S)
        found = await crew.ends_with_all_answered()
    assert not found.unasked
    assert found.requests >= len(load.acknowledged) > RATE_PER_S


async def until_another_coordinates(site: Site, node: int) -> None:
    """Return as soon as the brokers name another coordinator of the site's group than `node`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(KafkaError):  # as while another is elected
                if await coordinator(site) != node:
                    return
            await asyncio.sleep(0.2)


async def until_the_group_rebalances(site: Site) -> None:
    """Return as soon as the site's group hears of a member that joins."""
    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                [answer] = await admin.describe_consumer_groups([site.settings.kafka.group_id])
                [(_, _, state, *_)] = answer.groups
                if state != "Stable":
                    return
                await asyncio.sleep(0.02)
    finally:
        await admin.close()
