"""Requests of task `echo`, and who answers them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from engines.run.results import result_of
from streams.kafka.topics import Topics
from streams.messages import Request, encode
from streams.settings import KafkaSettings

PATIENCE_S = 120.0


def ask(identity: str = "", *, task: str = "echo", **changes: Any) -> Request:
    return Request(id=identity, task=task, engine="e", model_name="m", data={}, **changes)


@contextlib.asynccontextmanager
async def echo(kafka: KafkaSettings, answers: Callable[[str], bool] = lambda identity: True) -> AsyncIterator[None]:
    """Answer requests of task `echo` during the block, but for those that `answers` leaves out."""
    topics = Topics(kafka.topic_prefix)
    consumer = AIOKafkaConsumer(
        topics.requests("echo"),
        bootstrap_servers=kafka.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        metadata_max_age_ms=1000,
    )
    # Of all replicas: an answer that the leader alone has is gone with it.
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all", metadata_max_age_ms=1000)
    await consumer.start()
    await producer.start()

    async def work() -> None:
        async for record in consumer:
            request = json.loads(record.value)
            if not answers(request["id"]):
                continue
            names = {name: request[name] for name in ("id", "task", "engine", "model_name")}
            result = encode(result_of({"text": "done"}, processing_s=0.0, **names))
            while True:
                try:
                    await producer.send_and_wait(topics.results("echo"), result, key=record.key)
                    break
                except KafkaError:  # a broker is away
                    await asyncio.sleep(0.1)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        if working.done():  # it answers for ever, so something is wrong with it, and not with the client
            working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await consumer.stop()
        await producer.stop()
