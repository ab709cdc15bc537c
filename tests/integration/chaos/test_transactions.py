"""Producers with transactions: what they commit is answered, what they abort is not, and no lag stays behind."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streams.messages import encode
from tests.integration.chaos.auditor import committed_offsets, partitions_of, read_whole, settled
from tests.integration.chaos.crew import Crew
from tests.integration.chaos.deliveries import sleepy
from tests.integration.chaos.places import Place
from tests.integration.worker_process import PATIENCE_S, Site

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


def transactional(site: Site) -> AIOKafkaProducer:
    return AIOKafkaProducer(bootstrap_servers=site.settings.kafka.bootstrap_servers, transactional_id=uuid.uuid4().hex)


async def put(producer: AIOKafkaProducer, site: Site, ids: Iterable[str]) -> None:
    """Produce within the transaction that is open, and wait until the brokers have it."""
    topic = site.topics.requests("plain")
    sent = [await producer.send(topic, encode(sleepy(identity, task="plain"))) for identity in ids]
    await asyncio.gather(*sent)


async def no_lag_remains(site: Site, topic: str) -> None:
    """Wait until the committed offset of each partition with records is its end, markers included."""
    partitions = await partitions_of(site, topic)
    consumer = AIOKafkaConsumer(bootstrap_servers=site.settings.kafka.bootstrap_servers, group_id=None)
    await consumer.start()
    try:
        ends = {one.partition: end for one, end in (await consumer.end_offsets(partitions)).items() if end}
    finally:
        await consumer.stop()
    late = time.monotonic() + PATIENCE_S
    async with committed_offsets(site) as committed:
        while (found := await committed(topic)) != ends:
            assert time.monotonic() < late, f"committed {found}, the partitions end at {ends}"
            await asyncio.sleep(0.2)


async def test_aborted_requests_are_not_answered_and_committed_ones_leave_no_lag(
    three_brokers: Place, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=2)
    topic = site.topics.requests("plain")
    async with Crew(site) as crew:
        await crew.join()
        async with transactional(site) as producer:
            for number in range(6):
                await producer.begin_transaction()
                await put(producer, site, [f"{number}-{one}" for one in range(20)])
                if number % 2:
                    await producer.abort_transaction()
                else:
                    await producer.commit_transaction()
        found = await settled(site, "plain", isolation="read_committed")
        # The last ones were aborted: the log ends in a marker behind records that nobody reads.
        await no_lag_remains(site, topic)
        await crew.all_end_in_time()
    found.check()
    assert found.requests == 60
    assert not found.unasked
    assert len(await read_whole(site, site.topics.results("plain"))) == 60


async def test_an_open_transaction_holds_its_requests_back_until_it_is_committed(
    three_brokers: Place, tmp_path: Path
) -> None:
    site = await three_brokers.site(tmp_path, partitions=1)
    async with Crew(site) as crew:
        await crew.join()
        async with transactional(site) as first, transactional(site) as second:
            await first.begin_transaction()
            await put(first, site, ["opened first"])
            async with second.transaction():
                await put(second, site, ["behind"])
            with pytest.raises(AssertionError, match="never held"):
                await site.results("plain", ["behind"], patience_s=3)
            await first.commit_transaction()
        found = await settled(site, "plain", isolation="read_committed")
        await no_lag_remains(site, site.topics.requests("plain"))
        await crew.all_end_in_time()
    found.check()
    assert found.requests == 2
