"""Workers that die, stop and multiply, and records that stop a consumer: nothing is lost, little answered twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.memory_records import MemoryRecords

from deploy.local import LocalStack
from streams.client import InferenceClient
from streams.messages import Request, Result, encode
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess
from tests.raw_names import RawName, writing_raw_names

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

WINDOW = 8
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))


@pytest.fixture
async def site(tmp_path: Path, local_stack: LocalStack, sleepy_model: str) -> Site:
    made = Site(
        tmp_path,
        local_stack.settings(),
        worker={
            "plugins": ["tests.plugins.sleepy"],
            "tasks": ["sleepy", "plain"],
            "max_in_flight": WINDOW,
            "batch_max_items": 1,
        },
    )
    await made.create_topics(["sleepy", "plain"])
    return made


@asynccontextmanager
async def producing(site: Site) -> AsyncIterator[InferenceClient]:
    async with InferenceClient(site.settings.kafka, tasks=[]) as client:
        yield client


def sleepy(
    identity: str, *, task: str = "sleepy", seconds: float = 0.0, model: str = "sleepy", **data: Any
) -> Request:
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


async def test_a_killed_worker_loses_nothing_and_its_successor_repeats_at_most_what_was_in_flight(
    site: Site,
) -> None:
    quick = [f"r{number}" for number in range(40)]
    with WorkerProcess(site) as first:
        await first.started()
        # The oldest message of one partition never ends. What is behind it finishes, and must not be committed past.
        async with producing(site) as client:
            await client.send(sleepy("stuck", seconds=3600.0, model="sleepy-too"), key=b"one partition")
            for identity in quick[:3]:
                await client.send(sleepy(identity), key=b"one partition")
        await site.results("sleepy", quick[:3])
        await several_commits(site)
        first.kill()
    await no_unanswered_request_is_committed_past(site)
    await send_all(site, [sleepy(identity) for identity in quick[3:]])

    with WorkerProcess(site, settings={"SLEEPY_AWAKE": "1"}) as second:
        await second.started()
        answers = await site.results("sleepy", [*quick, "stuck"])
        await until_all_is_committed(site, len(quick) + 1)
        assert second.terminate() == 0
    assert all(result.success for result in answers.values())
    answered = await answered_ids(site)
    assert len(answered) - len(set(answered)) <= WINDOW


async def test_sigterm_drains_what_is_in_flight_and_answers_nothing_twice(site: Site) -> None:
    ids = [f"r{number}" for number in range(30)]
    with WorkerProcess(site) as worker:
        await worker.started()
        await send_all(site, [sleepy(identity, seconds=0.15) for identity in ids])
        await site.read([site.topics.results("sleepy")], lambda records: len(records) >= 3)
        assert worker.terminate() == 0
    answered = await answered_ids(site)
    assert len(answered) == await committed_total(site) < len(ids)
    with WorkerProcess(site) as successor:
        await successor.started()
        await site.results("sleepy", ids)
        await until_all_is_committed(site, len(ids))
        assert successor.terminate() == 0
    assert sorted(await answered_ids(site)) == sorted(ids)


async def several_commits(site: Site) -> None:
    """Wait as long as three commits take: time enough to commit too much."""
    await asyncio.sleep(3 * site.settings.kafka.commit_interval_s)


async def no_unanswered_request_is_committed_past(site: Site) -> None:
    topic = site.topics.requests("sleepy")
    answered = set(await answered_ids(site))
    requests = await site.everything(topic)
    committed = await site.committed(topic)
    passed = [record for record in requests if record.offset < committed.get(record.partition, 0)]
    assert {json.loads(record.value)["id"] for record in passed} <= answered


async def answered_ids(site: Site, task: str = "sleepy") -> list[str]:
    """Return the ids of all results, once for each time a request was answered."""
    records = await site.everything(site.topics.results(task))
    return [json.loads(record.value)["id"] for record in records]


@pytest.mark.timeout(120 + 120 * ROUNDS)
@pytest.mark.parametrize("task", ["sleepy", "plain"], ids=["with media", "quick path"])
async def test_workers_come_and_go_under_load_and_every_request_is_answered(site: Site, task: str) -> None:
    rng = random.Random(11)
    for round_number in range(ROUNDS):
        ids = [f"round{round_number}-{number}" for number in range(150)]
        with ExitStack() as running:
            first = running.enter_context(WorkerProcess(site))
            await first.started()
            await send_all(
                site,
                [
                    sleepy(
                        identity,
                        task=task,
                        seconds=rng.uniform(0.0, 0.1),
                        **({"fail": "meant to"} if number % 25 == 7 else {}),
                    )
                    for number, identity in enumerate(ids)
                ],
            )
            second = running.enter_context(WorkerProcess(site))
            await second.started()
            await site.read([site.topics.results(task)], lambda records: len(records) >= 30)
            first.kill()
            third = running.enter_context(WorkerProcess(site))
            await third.started()
            assert second.terminate() == 0
            answers = await site.results(task, ids, patience_s=120)
            await until_all_is_committed(site, len(ids) * (round_number + 1), task=task)
            assert third.terminate() == 0
        failed = {identity for identity in ids if not answers[identity].success}
        assert failed == {identity for number, identity in enumerate(ids) if number % 25 == 7}
        answered = await answered_ids(site, task)
        # One worker was killed a round.
        assert len(answered) - len(set(answered)) <= WINDOW * (round_number + 1)


async def test_a_worker_that_joins_makes_nobody_answer_anything_twice(site: Site) -> None:
    ids = [f"r{number}" for number in range(120)]
    with WorkerProcess(site) as first:
        await first.started()
        await send_all(site, [sleepy(identity, task="plain", seconds=0.05) for identity in ids])
        with WorkerProcess(site) as second:
            await second.started()
            await site.results("plain", ids)
            await until_all_is_committed(site, len(ids), task="plain")
            assert second.terminate() == 0
        assert first.terminate() == 0
    assert sorted(await answered_ids(site, "plain")) == sorted(ids)


async def test_a_header_name_that_is_no_utf8_costs_neither_its_request_nor_those_around_it(
    site: Site,
) -> None:
    around = [f"around{number}" for number in range(8)]
    named: list[tuple[str, bytes]] = [(RawName(b"\xff\xfe"), b"mine")]
    await send_batch(
        site,
        [
            (encode(sleepy("before")), []),
            (encode(sleepy("named badly")), named),
            (b"no JSON", [*named, ("also", b"mine")]),
            (encode(sleepy("behind")), []),
        ],
    )
    with WorkerProcess(site) as worker:
        await worker.started()
        await send_all(site, [sleepy(identity) for identity in around[:4]], key=b"one partition")
        await send_batch(site, [(encode(sleepy("alone")), named)])
        await send_all(site, [sleepy(identity) for identity in around[4:]], key=b"one partition")
        ids = ["before", "named badly", "behind", "alone", *around]
        answers = await site.results("sleepy", ids)
        await until_all_is_committed(site, len(ids) + 1)
        assert worker.process.poll() is None
        assert worker.terminate() == 0
    assert all(result.success for result in answers.values())
    assert sorted(await answered_ids(site)) == sorted(ids)
    (letter,) = await site.everything(site.topics.dead_letters("sleepy"))
    assert letter.value == b"no JSON"
    assert letter.headers[:2] == (("\ufffd\ufffd", b"mine"), ("also", b"mine"))


async def test_batches_are_answered_whatever_codec_their_producer_compressed_them_in(site: Site) -> None:
    codecs = ["gzip", "snappy", "lz4", "zstd"]
    named: list[tuple[str, bytes]] = [(RawName(b"\xff\xfe"), b"mine")]
    for codec in codecs:
        await send_batch(site, [(encode(sleepy(codec, note="z" * 1000)), [])], compression=codec)
        badly = encode(sleepy(f"{codec}, named badly", note="z" * 1000))
        await send_batch(site, [(badly, named)], compression=codec)
    ids = [*codecs, *(f"{codec}, named badly" for codec in codecs)]
    with WorkerProcess(site) as worker:
        await worker.started()
        answers = await site.results("sleepy", ids)
        await until_all_is_committed(site, len(ids))
        assert worker.terminate() == 0
    assert all(result.success for result in answers.values())
    assert sorted(await answered_ids(site)) == sorted(ids)


async def test_a_header_name_that_is_no_utf8_among_the_results_costs_no_client_its_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever ran before in this process may have been forgiving already.
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)
    named: list[tuple[str, bytes]] = [(RawName(b"\xff\xfe"), b"mine")]

    def answer(identity: str) -> bytes:
        return encode(
            Result(
                success=True,
                id=identity,
                task="sleepy",
                engine="sleepy",
                model_name="sleepy",
                processing_time=0.0,
                timestamp=0.0,
                result={},
            )
        )

    async with InferenceClient(site.settings.kafka, tasks=["sleepy"]) as client:
        waiting = [client.expect(identity) for identity in ("named badly", "behind")]
        messages = [(answer("named badly"), named), (answer("behind"), [])]
        await send_batch(site, messages, topic=site.topics.results("sleepy"))
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*waiting)
    assert [answer.id for answer in answers] == ["named badly", "behind"]


async def send_batch(
    site: Site,
    messages: Iterable[tuple[bytes, list[tuple[str, bytes]]]],
    *,
    topic: str | None = None,
    compression: str | None = None,
) -> None:
    """Send values with their headers as one batch to the partition of the key `one partition`; requests, where
    no topic is given."""
    with writing_raw_names():
        async with AIOKafkaProducer(
            bootstrap_servers=site.settings.kafka.bootstrap_servers, compression_type=compression
        ) as producer:
            batch = producer.create_batch()
            for value, headers in messages:
                assert batch.append(timestamp=None, key=b"one partition", value=value, headers=headers)
            topic = topic or site.topics.requests("sleepy")
            partitions = sorted(await producer.partitions_for(topic))
            number = DefaultPartitioner()(b"one partition", partitions, partitions)
            await (await producer.send_batch(batch, topic, partition=number))
