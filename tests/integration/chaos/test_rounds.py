"""Workers that join, leave and are killed under a steady load, on each kind of broker: nothing is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.chaos.crew import Crew, answers_grow
from tests.integration.chaos.places import Place
from tests.integration.chaos.steady_load import SteadyLoad

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "0"))
"""How many rounds each case has; 0 runs the two cases that lose most, for two rounds."""

CASES = [(rate, partitions) for rate in (12, 200) for partitions in (4, 16)] if ROUNDS else [(200, 16)]


@pytest.mark.timeout(900 + 90 * ROUNDS)
@pytest.mark.parametrize(("rate_per_s", "partitions"), CASES)
async def test_joins_leaves_and_kills_under_load_lose_nothing(
    place: Place, tmp_path: Path, rate_per_s: int, partitions: int
) -> None:
    task = "plain" if rate_per_s > 100 else "sleepy"
    site = await place.site(tmp_path, partitions=partitions)
    async with Crew(site) as crew:
        await crew.join()
        async with SteadyLoad(site, task, rate_per_s=rate_per_s):
            await answers_grow(site, task, by=rate_per_s)
            for number in range(ROUNDS or 2):
                await crew.join()
                await answers_grow(site, task, by=rate_per_s)
                if number % 2:
                    crew.kill()
                else:
                    await crew.leave()
                await answers_grow(site, task, by=2 * rate_per_s)
        found = await crew.ends_with_all_answered(task)
    assert not found.unasked
    assert found.requests > rate_per_s * (ROUNDS or 2)


@pytest.mark.timeout(900)
async def test_delays_between_the_steps_of_rebalances_lose_nothing(place: Place, tmp_path: Path) -> None:
    """Of 6 531 requests at 100 a second, 45 were lost so while Faust sought the positions."""
    site = await place.site(tmp_path, partitions=8)
    plugins = json.dumps(["tests.plugins.sleepy", "tests.plugins.slow_rebalances"])
    settings = {"INFERSTREAM_WORKER__PLUGINS": plugins, "SLOW_REBALANCES": "11"}
    async with Crew(site, settings=settings) as crew:
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=100):
            for _ in range(2):
                await crew.join()
                await answers_grow(site, "plain", by=200)
                await crew.leave()
                await answers_grow(site, "plain", by=200)
        found = await crew.ends_with_all_answered()
    assert found.requests > 800


@pytest.mark.timeout(900)
async def test_a_worker_that_waits_without_partitions_takes_those_of_one_that_goes(
    place: Place, tmp_path: Path
) -> None:
    site = await place.site(tmp_path, partitions=1)
    async with Crew(site) as crew:
        for _ in range(4):  # for two partitions in all
            await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=50):
            for number in range(3):
                await answers_grow(site, "plain", by=50)
                if number % 2:
                    crew.kill()
                else:
                    await crew.leave()
            await answers_grow(site, "plain", by=50)
        await crew.ends_with_all_answered()
