"""Records as producers other than ours write them: none stops its partition, and each is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner

from streams.client import InferenceClient
from streams.messages import Result, encode
from tests.integration.chaos.deliveries import answered_ids, send_all, sleepy, until_all_is_committed
from tests.integration.worker_process import PATIENCE_S, Site, WorkerProcess
from tests.raw_names import RawName, writing_raw_names

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


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


async def test_a_header_name_that_is_no_utf8_among_the_results_costs_no_client_its_answer(site: Site) -> None:
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
