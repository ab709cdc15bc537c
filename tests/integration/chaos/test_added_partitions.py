"""Partitions that are added while workers run are read within `kafka.metadata_max_age_s`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions

from tests.integration.chaos.auditor import partitions_of, read_whole, settled
from tests.integration.chaos.crew import Crew
from tests.integration.chaos.places import Place
from tests.integration.chaos.topic_changes import PARTITIONS, admin_of, ask, numbered
from tests.integration.worker_process import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


async def test_partitions_that_are_added_are_read(three_brokers: Place, tmp_path: Path) -> None:
    site = await three_brokers.site(tmp_path, partitions=PARTITIONS, metadata_max_age_s=5)
    topic = site.topics.requests("plain")
    async with Crew(site) as crew:
        await crew.join()
        await ask(site, numbered("before", 100))
        (await settled(site, "plain")).check()
        async with admin_of(site) as admin:
            await admin.create_partitions({topic: NewPartitions(2 * PARTITIONS)})
        late = time.monotonic() + PATIENCE_S
        while len(await partitions_of(site, topic)) < 2 * PARTITIONS:
            assert time.monotonic() < late
            await asyncio.sleep(0.1)
        await ask(site, numbered("behind", 400))
        found = await settled(site, "plain")
        await crew.all_end_in_time()
    found.check()
    assert found.requests == 500
    assert {record.partition for record in await read_whole(site, topic)} == set(range(2 * PARTITIONS))
