"""Sends records to the broker in batches: those of one partition that are ready at the same time go together."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from streams.cloudevents import Headers


class Outgoing(NamedTuple):
    """One record to send."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class _Delivery:
    """A caller's wait for the broker to have all its records."""

    __slots__ = ("future", "missing")

    def __init__(self, future: asyncio.Future[None], missing: int) -> None:
        self.future = future
        self.missing = missing

    def arrived(self) -> None:
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(None)

    def failed(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Waiting = tuple[Outgoing, _Delivery]


class Outbox:
    """Gathers records by topic and sends each topic's as batches, one after the other.

    aiokafka's own `send` makes two futures and finds a partition for every record; a batch of its needs that
    once. While a batch is on its way the next one gathers, so batches grow with the load and a lone record
    leaves at once. Lives on the event loop of its producer. Records with one key keep to one partition, that
    of Kafka's default partitioner; those without a key take one at random, together.
    """

    def __init__(self, producer: Callable[[], Any]) -> None:
        """`producer` returns the started AIOKafkaProducer."""
        self._producer = producer
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._partitioner = DefaultPartitioner()

    async def deliver(self, *records: Outgoing) -> None:
        """Return once the broker has acknowledged all of them.

        Raises:
            MessageSizeTooLargeError: one is too large for the broker.
            KafkaError: the broker does not take one of them.
        """
        delivery = _Delivery(asyncio.get_running_loop().create_future(), len(records))
        for record in records:
            topic = record.topic
            waiting = self._waiting.get(topic)
            if waiting is None:
                waiting = self._waiting[topic] = deque()
            waiting.append((record, delivery))
            if topic not in self._sending:
                self._sending[topic] = asyncio.create_task(self._send_all(topic), name=f"send {topic}")
        await delivery.future

    async def _send_all(self, topic: str) -> None:
        """Send batches until nothing waits for `topic`."""
        waiting = self._waiting[topic]
        try:
            while waiting:
                taken = list(waiting)
                waiting.clear()
                try:
                    partitions = sorted(await self._producer().partitions_for(topic))
                except Exception as error:  # noqa: BLE001 - it is for those who wait
                    for _, delivery in taken:
                        delivery.failed(error)
                    continue
                by_partition = self._by_partition(taken, partitions)
                await asyncio.gather(
                    *(self._send(topic, partition, deque(its)) for partition, its in by_partition.items())
                )
        finally:
            del self._sending[topic]

    def _by_partition(self, taken: Collection[_Waiting], partitions: list[int]) -> dict[int, list[_Waiting]]:
        found: dict[int, list[_Waiting]] = {}
        keyless = random.choice(partitions)
        for one in taken:
            key = one[0].key
            partition = keyless if key is None else self._partitioner(key, partitions, partitions)
            found.setdefault(partition, []).append(one)
        return found

    async def _send(self, topic: str, partition: int, waiting: deque[_Waiting]) -> None:
        """Send the records of one partition in as few batches as they fit in."""
        producer = self._producer()
        while waiting:
            batch = producer.create_batch()
            taken: list[_Waiting] = []
            while waiting:
                record = waiting[0][0]
                if not batch.append(
                    timestamp=None, key=record.key, value=record.value, headers=record.headers
                ):
                    break
                taken.append(waiting.popleft())
            try:
                await (await producer.send_batch(batch, topic, partition=partition))
            except MessageSizeTooLargeError as error:
                if len(taken) == 1:
                    taken[0][1].failed(error)
                else:  # none of them may be too large by itself
                    await asyncio.gather(*(self._send(topic, partition, deque([one])) for one in taken))
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                for _, delivery in taken:
                    delivery.failed(error)
            else:
                for _, delivery in taken:
                    delivery.arrived()
