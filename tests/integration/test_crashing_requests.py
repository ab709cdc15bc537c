"""Requests that end or block the process of each worker that runs them: their partition goes on all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deploy.local import KafkaRelease, LocalStack
from engines.models.model_manager import ModelManager
from streams.messages import Request, decode_result
from tests.integration.test_unruly import TASKS, send, unruly
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess

MOST_ENDED = 12

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def model(model_manager: ModelManager) -> str:
    """A registered model without files."""
    model_manager.register_model_to_mlflow(
        model_name="unruly",
        model_source="huggingface",
        model_path="hf://tests/unruly",
        tags={"task": ",".join(TASKS), "engine": "unruly"},
    )
    return "unruly"


@pytest.fixture
async def site(local_stack: LocalStack, kafka_release: KafkaRelease | None, tmp_path: Path) -> Site:
    """A site of one partition, whose group soon removes a member that gives no sign."""
    if kafka_release is None:
        pytest.skip("needs Apache Kafka: the embedded broker keeps no notes beside offsets")
    site = Site(
        tmp_path,
        local_stack.settings(),
        kafka={"partitions": 1, "session_timeout_s": 6.0, "heartbeat_interval_s": 1.0},
        worker={"tasks": ["unruly"], "plugins": ["tests.plugins.unruly_plugin"]},
    )
    await site.create_topics(["unruly"])
    return site


async def ask(site: Site, requests: list[Request]) -> None:
    for one in requests:  # so that they are in this order
        await send(site, [one])


async def until_all_are_committed(site: Site, count: int) -> None:
    while (await site.committed(site.topics.requests("unruly"))) != {0: count}:
        await asyncio.sleep(0.1)


async def test_a_request_that_ends_each_worker_is_given_up_and_its_neighbours_are_answered(
    site: Site, model: str
) -> None:
    requests = [unruly(f"r{number}", model=model) for number in range(20)]
    requests[7] = unruly("r7", model=model, kills={"infer": "segfault"})
    await ask(site, requests)
    results = asyncio.create_task(site.results("unruly", [one.id for one in requests], patience_s=900.0))
    ended = 0
    while not results.done():
        with WorkerProcess(site) as worker:
            dying = asyncio.create_task(asyncio.to_thread(worker.process.wait))
            await asyncio.wait({dying, results}, return_when=asyncio.FIRST_COMPLETED)
            if results.done():
                async with asyncio.timeout(PATIENCE_S):
                    await until_all_are_committed(site, 20)
                assert worker.terminate() == 0
            await dying
            ended += worker.process.returncode < 0
    answers = await results
    codes = {name: error.code for name, one in answers.items() if (error := one.error) is not None}
    assert codes == {"r7": "WORKER_CRASHED"}
    assert ended <= MOST_ENDED
    letters = await site.everything(site.topics.dead_letters("unruly"))
    assert [dict(letter.headers)["__dlq.errors.exception.class"] for letter in letters] == [b"WORKER_CRASHED"]


async def test_a_request_that_keeps_the_lock_until_the_group_removes_its_worker_is_answered(
    site: Site, model: str
) -> None:
    requests = [unruly(f"r{number}", model=model) for number in range(3)]
    requests[1] = unruly("r1", model=model, blocks={"infer": 8.0})
    await ask(site, requests)
    with WorkerProcess(site) as worker:
        async with asyncio.timeout(PATIENCE_S):
            await until_all_are_committed(site, 3)
        assert worker.terminate() == 0
    results = [decode_result(one.value) for one in await site.everything(site.topics.results("unruly"))]
    assert [one.error for one in results] == [None] * len(results)
    assert {one.id for one in results} == {"r0", "r1", "r2"}
    assert len([one for one in results if one.id == "r1"]) <= 2  # it may be delivered before the first call ends
    assert await site.everything(site.topics.dead_letters("unruly")) == []
