"""Topics that are deleted, made again, grow and are cut while workers read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.chaos.auditor import read_whole, settled
from tests.integration.chaos.crew import Crew
from tests.integration.chaos.deliveries import send_all, sleepy
from tests.integration.chaos.places import Place
from tests.integration.chaos.topic_changes import PARTITIONS, ask, cut, delete, make, numbered

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


@pytest.mark.parametrize("first", [400, 40], ids=["a shorter one", "a longer one"])
async def test_a_topic_made_again_is_read_from_its_start(three_brokers: Place, tmp_path: Path, first: int) -> None:
    """Whether positions lie behind the end of what is there now or within it."""
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS)
    topic = site.topics.requests("plain")
    async with Crew(site) as crew:
        await crew.join()
        await ask(site, numbered("before", first))
        (await settled(site, "plain")).check()
        for name, count in (("again", 120), ("once more", 200)):
            await delete(site, topic)
            await make(site, topic)
            await ask(site, numbered(name, count))
            found = await settled(site, "plain")
            found.check()
            assert found.requests == count
        await crew.all_end_in_time()
        # A restart answers nothing again: what is committed belongs to the topic that is there now.
        answers = len(await read_whole(site, site.topics.results("plain")))
        await crew.join()
        await ask(site, ["after the restart"])
        (await settled(site, "plain")).check()
        await crew.all_end_in_time()
    assert len(await read_whole(site, site.topics.results("plain"))) == answers + 1


async def test_a_topic_that_is_gone_stops_neither_other_tasks_nor_the_worker_s_end(
    three_brokers: Place, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS)
    async with Crew(site) as crew:
        await crew.join()
        for task in ("plain", "sleepy"):
            await ask(site, numbered("before", 40), task)
            (await settled(site, task)).check()
        await delete(site, site.topics.requests("plain"))
        # Several commits are due meanwhile, of the other task and of what is gone.
        for number in range(5):
            await ask(site, numbered(f"beside{number}-", 40), "sleepy")
            (await settled(site, "sleepy")).check()
        await crew.all_end_in_time()


async def test_retention_that_removes_what_was_not_read_costs_nothing_else(
    three_brokers: Place, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS)
    topic = site.topics.requests("plain")
    async with Crew(site) as crew:
        await crew.join()
        await ask(site, numbered("before", 100))
        (await settled(site, "plain")).check()
        await crew.leave()
        await ask(site, numbered("while nobody reads", 400))
        await cut(site, topic, leave=20)
        await crew.join()
        found = await settled(site, "plain")
        found.check()
        assert found.requests == 20 * PARTITIONS
        # And while somebody reads, whose requests take longer than the cut.
        await send_all(site, [sleepy(one, task="plain", seconds=0.02) for one in numbered("slow", 400)])
        await cut(site, topic, leave=10)
        found = await settled(site, "plain")
        await crew.all_end_in_time()
    found.check()
    assert found.requests == 10 * PARTITIONS
