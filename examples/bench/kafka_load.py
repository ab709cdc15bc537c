"""Puts requests on a topic, waits until a consumer group is through, and reads when its answers were produced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer

from tests.integration.worker_process import Site

_AT_ONCE = 1000
_POLL_S = 0.25
_PATIENCE_S = 300.0


async def fill(site: Site, topic: str, values: Iterable[bytes]) -> int:
    """Produce `values`, wait for the broker to have them, and return how many there were."""
    count = 0
    async with AIOKafkaProducer(bootstrap_servers=site.settings.kafka.bootstrap_servers, acks="all") as producer:
        sent: list[asyncio.Future[object]] = []
        for value in values:
            sent.append(await producer.send(topic, value))
            count += 1
            if len(sent) >= _AT_ONCE:
                await asyncio.gather(*sent)
                sent.clear()
        await asyncio.gather(*sent)
    return count


async def until_committed(site: Site, topic: str, count: int) -> None:
    """Return when the site's group has committed `count` messages of `topic`.

    Looks seldom and asks only for offsets: whoever is measured has the machine.

    Raises:
        TimeoutError: it never did.
    """
    late = time.monotonic() + _PATIENCE_S
    while (done := sum((await site.committed(topic)).values())) < count:
        if time.monotonic() > late:
            raise TimeoutError(f"{done} of {count} messages of {topic} were done after {_PATIENCE_S:g} s")
        await asyncio.sleep(_POLL_S)


async def produced_per_s(site: Site, topic: str, count: int, *, skip: float = 0.1) -> float:
    """Return how many of the `count` records of `topic` were produced a second, by their own timestamps.

    The first `skip` of them are left out: until then the producer connects and warms up.
    """
    times: list[int] = sorted(record.timestamp for record in await site.everything(topic))
    if len(times) != count:
        raise AssertionError(f"{topic} holds {len(times)} records, not {count}")
    first = int(count * skip)
    return (count - 1 - first) / max((times[-1] - times[first]) / 1000, 1e-3)
