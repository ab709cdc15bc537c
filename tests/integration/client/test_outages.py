"""The client in somebody's service: what it rides out, and what it says of a cluster that is not well."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from engines.run.results import result_of
from streams.client import InferenceClient
from streams.client_errors import (
    RequestNotSent,
)
from streams.kafka.topic_admin import TopicsNotReady, TopicsRefused, check_topics, create_topics
from streams.kafka.topics import Topics
from streams.messages import encode
from streams.settings import KafkaSettings
from tests.integration.client.echo import PATIENCE_S, ask, echo
from tests.kafka_cluster import RunningCluster


async def test_calls_ride_out_the_death_of_a_broker(kafka: KafkaSettings, killable: RunningCluster) -> None:
    done, over = 0, asyncio.Event()

    async def call(client: InferenceClient) -> None:
        nonlocal done
        while not over.is_set():
            result = await client.infer(ask(), key=uuid.uuid4().bytes, timeout_s=PATIENCE_S)
            assert result.success
            done += 1

    async with (
        echo(kafka),
        InferenceClient(kafka, tasks=["echo"]) as client,
        asyncio.TaskGroup() as callers,
    ):
        for _ in range(8):
            callers.create_task(call(client))
        for number in (1, 2):
            before = done
            await asyncio.to_thread(killable.kill, number)
            async with asyncio.timeout(PATIENCE_S):
                while done < before + 100:
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(killable.restart, number)
        over.set()
    assert done >= 200


_HOST = """
import asyncio, sys
from streams.client import InferenceClient
from streams.messages import Request
from streams.settings import KafkaSettings

async def main():
    kafka = KafkaSettings(bootstrap_servers=sys.argv[1], topic_prefix=sys.argv[2], producer_timeout_s=2)
    request = Request(task="echo", engine="e", model_name="m", data={})
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        print("opened", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await client.send(request, timeout_s=600)
        print("sent", flush=True)

asyncio.run(main())
"""


async def test_brokers_that_are_away_are_a_few_lines_and_their_return_is_seen(
    kafka: KafkaSettings, killable: RunningCluster
) -> None:
    host = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", _HOST, kafka.bootstrap_servers, kafka.topic_prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert host.stdin is not None
    assert host.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await host.stdout.readline() == b"opened\n"
        await asyncio.to_thread(killable.kill, 1, 2, 3)
        host.stdin.write(b"\n")  # it knows nothing of the topic it is to send to yet
        await asyncio.sleep(15)  # as long as they are away, and longer than the client's own time-out
        await asyncio.to_thread(killable.restart, 1, 2, 3)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await host.communicate()
    finally:
        if host.returncode is None:
            host.kill()
            await host.wait()
    assert out == b"sent\n", err.decode()
    assert len(err.splitlines()) < 100, err.decode()


async def test_results_in_partitions_that_were_added_are_read_from_their_start(
    kafka: KafkaSettings, killable: RunningCluster
) -> None:
    topic = Topics(kafka.topic_prefix).results("echo")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    async with InferenceClient(kafka, tasks=["echo"]) as client:
        before, after = client.expect("before"), client.expect("after")
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, metadata_max_age_ms=500)
        await producer.start()
        try:
            about: dict[str, Any] = {"task": "echo", "engine": "e", "model_name": "m", "processing_s": 0.0}
            await producer.send_and_wait(topic, encode(result_of({}, id="before", **about)), partition=0)
            await admin.create_partitions({topic: NewPartitions(4)})
            async with asyncio.timeout(PATIENCE_S):
                while len(await producer.partitions_for(topic)) < 4:
                    await asyncio.sleep(0.2)
            await producer.send_and_wait(topic, encode(result_of({}, id="after", **about)), partition=3)
            async with asyncio.timeout(PATIENCE_S):
                assert (await before).success
                assert (await after).success
        finally:
            await producer.stop()
            await admin.close()


async def test_a_cluster_without_a_controller_is_told(kafka: KafkaSettings, killable: RunningCluster) -> None:
    await asyncio.to_thread(killable.kill, 1, 2)
    try:
        assert await check_topics(kafka, ["echo"]) == []
        with pytest.raises(TopicsRefused, match="the cluster has no controller"):
            await create_topics(kafka, ["other"])
    finally:
        await asyncio.to_thread(killable.restart, 1, 2)


async def test_a_missing_topic_is_named(kafka: KafkaSettings, killable: RunningCluster) -> None:
    with pytest.raises(TopicsNotReady, match=r"results\.absent does not exist"):
        async with InferenceClient(kafka, tasks=["absent"]):
            pass
    short = kafka.model_copy(update={"producer_timeout_s": 1.0})
    async with InferenceClient(short, tasks=[]) as client:
        with pytest.raises(RequestNotSent, match=r"requests\.absent"):
            await client.send(ask(task="absent"), timeout_s=PATIENCE_S)
