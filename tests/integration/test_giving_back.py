"""Requests whose model still loads hold up neither a rebalance nor a stop: they are left to the next owner."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import httpx
import pytest

from deploy.local import LocalStack
from tests.integration.test_unruly import TASKS, models, send, unruly, url_of
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess

__all__ = ["models"]

pytestmark = pytest.mark.timeout(1200)


async def until_it_has(worker: WorkerProcess, in_flight: int) -> None:
    """Wait until so many requests are in flight in a worker."""
    async with httpx.AsyncClient() as client, asyncio.timeout(PATIENCE_S):
        while (
            f"inferstream_messages_in_flight {in_flight}.0" not in (await client.get(f"{url_of(worker)}/metrics")).text
        ):
            await asyncio.sleep(0.1)


async def test_requests_whose_model_loads_hold_up_neither_a_join_nor_a_stop(
    local_stack: LocalStack, models: list[str], tmp_path: Path
) -> None:
    site = Site(
        tmp_path,
        local_stack.settings(),
        kafka={"partitions": 2, "rebalance_timeout_s": 1800.0},
        worker={"tasks": TASKS, "plugins": ["tests.plugins.unruly_plugin"], "drain_timeout_s": 3600},
        http={"port": 0, "enabled": True},
    )
    await site.create_topics(TASKS)
    with WorkerProcess(site) as first:
        await first.started()
        await send(site, [unruly("stuck", model="load-hangs")])
        await until_it_has(first, 1)
        with WorkerProcess(site) as second:
            answered_by: set[str] = set()
            async with asyncio.timeout(600):  # below what the group waits for a member
                for number in itertools.count():
                    await send(site, [unruly(f"r{number}", "unruly-media")])
                    [result] = (await site.results("unruly-media", [f"r{number}"])).values()
                    answered_by.add(result.worker)
                    if answered_by == {first.name, second.name}:
                        break
            assert first.terminate() == 0
            await until_it_has(second, 1)
            assert second.terminate() == 0
    assert await site.everything(site.topics.results("unruly")) == []
