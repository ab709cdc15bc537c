"""Workers as processes of their own, and topics read from outside: what the integration and chaos tests use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition

from engines.configuration import load
from streams.kafka.topic_admin import create_topics
from streams.kafka.topic_reader import TopicReader
from streams.kafka.topics import Topics
from streams.messages import Result, decode_event, decode_result
from streams.settings import Settings

Record = Any
"""A ConsumerRecord; aiokafka has no types."""

PATIENCE_S = 240.0
"""Longest wait for anything that must happen; reached only when a test is about to fail."""


class Site:
    """A topic prefix and a consumer group of a test's own on the shared stack, with the settings to reach them."""

    def __init__(self, directory: Path, stack_settings: dict[str, dict[str, Any]], **sections: dict[str, Any]) -> None:
        prefix = f"t{uuid.uuid4().hex[:10]}"
        tree: dict[str, dict[str, Any]] = {name: dict(values) for name, values in stack_settings.items()}
        own: dict[str, dict[str, Any]] = {
            "kafka": {"topic_prefix": prefix, "group_id": prefix, "partitions": 2},
            "cache": {"directory": str(directory / "model-files")},
            "worker": {},
            "logging": {"format": "json"},
        }
        for layer in (own, sections):
            for name, values in layer.items():
                tree[name] = {**tree.get(name, {}), **values}
        self.directory = directory
        self.config_path = directory / "inferstream.yaml"
        self.config_path.write_text(yaml.safe_dump(tree))
        self.settings = load(Settings, config_file=self.config_path, environ={}).settings
        self.topics = Topics(prefix)

    async def create_topics(self, tasks: Sequence[str]) -> None:
        """Create the topics of `tasks`."""
        await create_topics(self.settings.kafka, tasks)

    async def read(
        self, topics: Sequence[str], until: Callable[[list[Record]], bool], *, patience_s: float = PATIENCE_S
    ) -> list[Record]:
        """Return all records of `topics` as soon as `until` holds for them; fails the test when it never does."""
        records: list[Record] = []
        async with TopicReader(self.settings.kafka, topics, start="beginning") as reader:
            try:
                async with asyncio.timeout(patience_s):
                    if until(records):
                        return records
                    async for record in reader.records():
                        records.append(record)
                        if until(records):
                            return records
            except TimeoutError:
                seen = [(record.topic, record.offset, record.value) for record in records][-20:]
                raise AssertionError(f"{topics} never held what was waited for; they end with {seen}") from None
        return records

    async def results(self, task: str, ids: Sequence[str], *, patience_s: float = PATIENCE_S) -> dict[str, Result]:
        """Return the first result for each of `ids` once all are answered."""

        def by_id(records: list[Record]) -> dict[str, Record]:
            return {json.loads(record.value)["id"]: record for record in reversed(records)}

        records = await self.read(
            [self.topics.results(task)], lambda found: set(ids) <= by_id(found).keys(), patience_s=patience_s
        )
        answers = by_id(records)
        return {identity: decode_result(answers[identity].value) for identity in ids}

    async def everything(self, topic: str) -> list[Record]:
        """Return all that `topic` holds at this moment."""
        partitions = [TopicPartition(topic, number) for number in range(self.settings.kafka.partitions)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka.bootstrap_servers,
            group_id=None,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            consumer.assign(partitions)
            records: list[Record] = []
            unread = set(partitions)
            while unread:  # the broker tells where a partition ends with every fetch, not when asked for it
                for fetched in (await consumer.getmany(timeout_ms=500)).values():
                    records += fetched
                unread = {one for one in partitions if await consumer.position(one) != consumer.highwater(one)}
            return records
        finally:
            await consumer.stop()

    async def committed(self, topic: str) -> dict[int, int]:
        """Return the group's committed offset of each partition of `topic` that has one."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka.bootstrap_servers,
            group_id=self.settings.kafka.group_id,
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            partitions = range(self.settings.kafka.partitions)
            offsets = {number: await consumer.committed(TopicPartition(topic, number)) for number in partitions}
        finally:
            await consumer.stop()
        return {number: offset for number, offset in offsets.items() if offset is not None}


class WorkerProcess:
    """One worker as a child process; killed at the end of the `with` block if it still runs."""

    def __init__(self, site: Site, *, name: str | None = None, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are variables of the environment for this worker alone; those of the caller are not its own."""
        self.site = site
        self.settings = settings or {}
        self.name = name or f"w{uuid.uuid4().hex[:8]}"
        self.log_path = site.directory / f"{self.name}.log"

    def __enter__(self) -> Self:
        around = {name: value for name, value in os.environ.items() if not name.startswith("INFERSTREAM_")}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "--config", str(self.site.config_path), "worker"],
                env={**around, **self.settings, "INFERSTREAM_WORKER__NAME": self.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """Everything the worker has logged."""
        return self.log_path.read_text(errors="replace")

    async def started(self) -> Self:
        """Return once the worker says on the events topic that it consumes."""

        def is_up(records: list[Record]) -> bool:
            assert self.process.poll() is None, f"the worker died:\n{self.log[-4000:]}"
            events = [decode_event(record.value) for record in records if record.value]
            return any(event.kind == "worker_started" and event.worker == self.name for event in events)

        watch = asyncio.create_task(self.site.read([self.site.topics.events], is_up))
        while not watch.done():
            assert self.process.poll() is None, f"the worker died:\n{self.log[-4000:]}"
            await asyncio.wait({watch}, timeout=0.1)
        watch.result()
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        """Ask it to stop, wait, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        patience = time.monotonic() + PATIENCE_S
        while (status := self.process.poll()) is None:
            assert time.monotonic() < patience, f"the worker does not stop:\n{self.log[-4000:]}"
            time.sleep(0.05)
        return status
