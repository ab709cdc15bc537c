"""Sends requests that sleep, and looks at what came of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from streams.client import InferenceClient
from streams.messages import Request
from tests.integration.worker_process import Site

WINDOW = 8
"""How many requests of a partition a worker has taken and not committed, at most."""


@asynccontextmanager
async def producing(site: Site) -> AsyncIterator[InferenceClient]:
    async with InferenceClient(site.settings.kafka, tasks=[]) as client:
        yield client


def sleepy(identity: str, *, task: str = "sleepy", seconds: float = 0.0, model: str = "sleepy", **data: Any) -> Request:
    return Request(
        task=task,
        engine="sleepy",
        model_name=model,
        id=identity,
        data={"value": identity, "seconds": seconds, **data},
    )


async def send_all(site: Site, requests: Iterable[Request], *, key: bytes | None = None) -> None:
    async with producing(site) as client:
        await asyncio.gather(*(client.send(request, key=key) for request in requests))


async def committed_total(site: Site, task: str = "sleepy") -> int:
    return sum((await site.committed(site.topics.requests(task))).values())


async def until_all_is_committed(site: Site, count: int, *, task: str = "sleepy") -> None:
    for _ in range(600):
        if await committed_total(site, task) == count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"committed {await committed_total(site, task)} of {count}")


async def answered_ids(site: Site, task: str = "sleepy") -> list[str]:
    """Return the ids of all results, once for each time a request was answered."""
    records = await site.everything(site.topics.results(task))
    return [json.loads(record.value)["id"] for record in records]
