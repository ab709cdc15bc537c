"""Three brokers that are killed and frozen, one, two and all at once: nothing is lost, nobody is stuck."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.integration.chaos.crew import Crew, answers_grow
from tests.integration.chaos.deliveries import send_all, sleepy
from tests.integration.chaos.places import Place
from tests.integration.chaos.steady_load import SteadyLoad
from tests.kafka_cluster import RunningCluster

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

RATE_PER_S = 40
IS_LONG = "CHAOS_ROUNDS" in os.environ
NODES = (1, 2, 3) if IS_LONG else (2,)
"""Who is killed and frozen alone."""
AWAY_S = 20.0 if IS_LONG else 8.0
"""How long brokers stay away: longer than the controllers take to notice, and than a session lasts."""


async def away(cluster: RunningCluster, *numbers: int) -> None:
    """Kill these nodes, leave them away for a while, and bring them back."""
    await asyncio.to_thread(cluster.kill, *numbers)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(cluster.restart, *numbers)


async def frozen(cluster: RunningCluster, number: int) -> None:
    """Freeze a node for a while."""
    cluster.pause(number)
    await asyncio.sleep(AWAY_S)
    cluster.resume(number)


@pytest.mark.timeout(1200 if IS_LONG else 900)
async def test_brokers_that_die_and_freeze_cost_no_request(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=6)
    async with Crew(site) as crew:
        await crew.join()
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=RATE_PER_S) as load:
            await answers_grow(site, "plain", by=RATE_PER_S)
            for number in NODES:
                await away(cluster, number)
                await answers_grow(site, "plain", by=RATE_PER_S)
            for number in NODES:
                await frozen(cluster, number)
                await answers_grow(site, "plain", by=RATE_PER_S)
            if IS_LONG:
                await away(cluster, 1, 3)
                await answers_grow(site, "plain", by=RATE_PER_S)
            await away(cluster, 1, 2, 3)
            await answers_grow(site, "plain", by=RATE_PER_S)
        found = await crew.ends_with_all_answered()
    assert not found.unasked
    assert found.requests >= len(load.acknowledged) > RATE_PER_S


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_idle_worker_stops_in_time_while_all_brokers_are_away(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path, how: str
) -> None:
    site = await three_brokers.site(tmp_path, partitions=2)
    async with Crew(site) as crew:
        worker = await crew.join()
        (cluster.kill if how == "killed" else cluster.pause)(1, 2, 3)
        await crew.all_end_in_time()
    assert '"reason": "no broker answers"' in worker.log  # so it asked none to let it go


async def test_a_busy_worker_ends_in_time_while_all_brokers_are_away_and_a_later_one_answers(
    three_brokers: Place, cluster: RunningCluster, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=2)
    async with Crew(site) as crew:
        worker = await crew.join()
        await send_all(site, [sleepy(f"r{number}", task="plain", seconds=0.05) for number in range(200)])
        await site.read([site.topics.results("plain")], lambda records: len(records) >= 10)
        cluster.kill(1, 2, 3)
        # It cannot publish what it answers, and says so by its status.
        crew.workers.remove(worker)
        await crew.ends_in_time(worker, may_fail=True)
        await asyncio.to_thread(cluster.restart, 1, 2, 3)
        await crew.join()
        found = await crew.ends_with_all_answered()
    assert found.requests == 200
