"""Says from the topics alone whether every request was answered, and nothing was committed before it was."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.integration.worker_process import PATIENCE_S, Record, Site

Isolation = Literal["read_uncommitted", "read_committed"]

_SHOWN = 20
_VOLATILE = ("processing_time", "timestamp", "timings", "attempt", "worker")
"""What may differ between two answers to one request."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the requests of one task, as its topics and the group's committed offsets tell."""

    requests: int
    """Records that the request topic holds now."""
    answered: int
    """Those of them that have a result or a dead letter."""
    lost: tuple[str, ...]
    """Ids without a result or dead letter, each with its place: `id at partition@offset`."""
    committed_past: tuple[str, ...]
    """Those of `lost` that lie before the committed offset: nobody will ever answer them."""
    duplicates: tuple[str, ...]
    """Ids that were answered more than once."""
    differing: tuple[str, ...]
    """Those of `duplicates` whose answers do not say the same."""
    unasked: tuple[str, ...]
    """Ids that were answered although the request topic does not hold them: aborted, deleted or made up."""

    def check(self) -> None:
        """Fail the test where a request was lost, committed past, or answered in different ways."""
        assert not [*self.lost, *self.committed_past, *self.differing], f"\n{self}"

    def __str__(self) -> str:
        lines = [f"{self.requests} requests, {self.answered} answered"]
        for name in ("lost", "committed_past", "differing", "duplicates", "unasked"):
            found: tuple[str, ...] = getattr(self, name)
            shown = ", ".join(found[:_SHOWN]) + (" ..." if len(found) > _SHOWN else "")
            lines.append(f"{len(found)} {name.replace('_', ' ')}{': ' if found else ''}{shown}")
        return "\n".join(lines)


async def audit(site: Site, task: str, *, isolation: Isolation = "read_uncommitted") -> Audit:
    """Compare requests with their outcomes; right at any moment, also while workers run.

    Commits are read before answers and those before requests, so whatever is committed by then must have been
    answered by then. `isolation` says which requests count.
    """
    topics = site.topics
    async with committed_offsets(site) as committed:
        passed = await committed(topics.requests(task))
    results = await read_whole(site, topics.results(task))
    letters = await read_whole(site, topics.dead_letters(task))
    requests = await read_whole(site, topics.requests(task), isolation=isolation)
    return compare(requests, results, letters, passed)


def compare(
    requests: Iterable[Record],
    results: Iterable[Record],
    letters: Iterable[Record],
    committed: dict[int, int],
) -> Audit:
    """Return what these records, and these committed offsets by partition, say about each other."""
    answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in results:
        result = json.loads(record.value)
        answers[result["id"]].append({name: it for name, it in result.items() if name not in _VOLATILE})
    buried = {_origin(record) for record in letters}
    asked: set[str] = set()
    count, lost, past = 0, [], []
    for record in requests:
        count += 1
        identity = _identity(record)
        asked.add(identity)
        if identity in answers or (record.topic, record.partition, record.offset) in buried:
            continue
        lost.append(f"{identity} at {record.partition}@{record.offset}")
        if record.offset < committed.get(record.partition, 0):
            past.append(lost[-1])
    repeated = {identity: given for identity, given in answers.items() if len(given) > 1}
    return Audit(
        requests=count,
        answered=count - len(lost),
        lost=tuple(lost),
        committed_past=tuple(past),
        duplicates=tuple(repeated),
        differing=tuple(identity for identity, given in repeated.items() if any(one != given[0] for one in given)),
        unasked=tuple(answers.keys() - asked),
    )


async def settled(
    site: Site, task: str, *, isolation: Isolation = "read_uncommitted", patience_s: float = PATIENCE_S
) -> Audit:
    """Wait until the group has committed all that the request topic holds, and return the audit.

    Nothing is sent meanwhile. Fails the test where no commit came for `patience_s`, and says what is unanswered.
    """
    topic = site.topics.requests(task)
    requests = await read_whole(site, topic, isolation=isolation)
    last = {record.partition: record.offset for record in requests}  # offsets rise within a partition
    before: dict[int, int] = {}
    late = time.monotonic() + patience_s
    async with committed_offsets(site) as committed:
        while True:
            found = await committed(topic)
            behind = {
                partition: f"{found.get(partition)} of {offset + 1}"
                for partition, offset in last.items()
                if found.get(partition, 0) <= offset
            }
            if not behind:
                break
            if found != before:
                before, late = found, time.monotonic() + patience_s
            if time.monotonic() > late:
                so_far = await audit(site, task, isolation=isolation)
                raise AssertionError(
                    f"no commit for {patience_s:g} s; partitions are committed up to {behind}\n{so_far}"
                )
            await asyncio.sleep(0.2)
    return await audit(site, task, isolation=isolation)


@asynccontextmanager
async def committed_offsets(site: Site) -> AsyncIterator[Any]:
    """Yield `await committed(topic)`: the group's offset of each partition of `topic` that has one."""
    kafka = site.settings.kafka
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()

    async def committed(topic: str) -> dict[int, int]:
        partitions = await partitions_of(site, topic)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # The coordinator is looked for each time. One that is it no more says nothing of any partition, which
                # aiokafka's consumer takes for a group without offsets, for ever.
                with suppress(KafkaError):
                    told = await admin.list_consumer_group_offsets(kafka.group_id, partitions=partitions)
                    if told.keys() >= set(partitions):
                        found = {one.partition: told[one].offset for one in partitions}
                        return {number: offset for number, offset in found.items() if offset >= 0}
                await asyncio.sleep(0.2)

    try:
        yield committed
    finally:
        await admin.close()


async def partitions_of(site: Site, topic: str) -> list[TopicPartition]:
    """Return the partitions that `topic` has now."""
    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        found = {one["topic"]: one["partitions"] for one in await admin.describe_topics()}
    finally:
        await admin.close()
    return [TopicPartition(topic, one["partition"]) for one in found.get(topic, [])]


async def read_whole(site: Site, topic: str, *, isolation: Isolation = "read_uncommitted") -> list[Record]:
    """Return all that `topic` holds now, partition by partition in order.

    Fails the test where nothing comes for `PATIENCE_S`.
    """
    partitions = await partitions_of(site, topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=site.settings.kafka.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        records: dict[TopicPartition, list[Record]] = {one: [] for one in partitions}
        unread = set(partitions)
        late = time.monotonic() + PATIENCE_S
        while unread:  # the broker tells where a partition ends with every fetch, not when asked for it
            for partition, fetched in (await consumer.getmany(timeout_ms=200)).items():
                records[partition] += fetched
                late = time.monotonic() + PATIENCE_S
            async with asyncio.timeout(PATIENCE_S):
                unread = {one for one in unread if not await _is_read(consumer, one, isolation)}
            assert time.monotonic() < late, f"{topic} is not read to its end: {unread}"
        return [record for one in partitions for record in records[one]]
    finally:
        await consumer.stop()


async def _is_read(consumer: Any, partition: TopicPartition, isolation: Isolation) -> bool:
    end = consumer.highwater(partition)
    if isolation == "read_committed" and end is not None:
        end = min(end, consumer.last_stable_offset(partition))
    return end is not None and await consumer.position(partition) >= end


def _identity(record: Record) -> str:
    try:
        identity = json.loads(record.value)["id"]
    except (ValueError, KeyError, TypeError):
        identity = None
    return identity or f"{record.topic}/{record.partition}/{record.offset}"


def _origin(letter: Record) -> tuple[str, int, int]:
    headers = dict(letter.headers)
    place = (headers[f"__dlq.errors.{name}"].decode() for name in ("topic", "partition", "offset"))
    topic, partition, offset = place
    return topic, int(partition), int(offset)
