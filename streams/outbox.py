"""Sends records to the broker in batches: those of one partition that are ready at the same time go together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from streams.cloudevents import Headers


class Outgoing(msgspec.Struct, frozen=True):
    """One record to send."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


OnDelivered = Callable[[Exception | None], None]
"""Hears that the broker has all the records, or why it does not take one."""


class _Delivery(msgspec.Struct, eq=False):
    """Records of one caller, who hears of the last one that arrived or the first that did not."""

    missing: int
    on_delivered: OnDelivered

    def arrived(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.on_delivered(None)

    def failed(self, error: Exception) -> None:
        if self.missing > 0:
            self.missing = -1  # so that it never gets to nothing missing
            self.on_delivered(error)


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
        self._waiting: dict[str, list[_Waiting]] = {}
        """What waits for each topic that is being sent to."""
        self._sending: set[asyncio.Task[None]] = set()
        self._partitioner = DefaultPartitioner()

    async def deliver(self, *records: Outgoing) -> None:
        """Return once the broker has acknowledged all of them.

        Raises:
            MessageSizeTooLargeError: one is too large for the broker.
            KafkaError: the broker does not take one of them.
        """
        delivered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_delivered(error: Exception | None) -> None:
            if delivered.done():  # whoever waited has gone
                return
            if error is None:
                delivered.set_result(None)
            else:
                delivered.set_exception(error)

        self.post(records, on_delivered)
        await delivered

    def post(self, records: Sequence[Outgoing], on_delivered: OnDelivered) -> None:
        """Do what `deliver` does, and call `on_delivered` once in the end; it must not raise."""
        delivery = _Delivery(len(records), on_delivered)
        for record in records:
            topic = record.topic
            waiting = self._waiting.get(topic)
            if waiting is None:
                self._waiting[topic] = [(record, delivery)]
                self._sending.add(sending := asyncio.create_task(self._send_all(topic), name=f"send {topic}"))
                sending.add_done_callback(self._sending.discard)
            else:
                waiting.append((record, delivery))

    async def _send_all(self, topic: str) -> None:
        """Send batches until nothing waits for `topic`."""
        while waiting := self._waiting[topic]:
            self._waiting[topic] = []
            try:
                partitions = sorted(await self._producer().partitions_for(topic))
                by_partition = self._by_partition(waiting, partitions)
                sends = [self._send(topic, number, records) for number, records in by_partition.items()]
                await asyncio.gather(*sends)
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                for _, delivery in waiting:
                    delivery.failed(error)
        del self._waiting[topic]

    def _by_partition(self, waiting: list[_Waiting], partitions: list[int]) -> dict[int, list[_Waiting]]:
        together = random.choice(partitions)
        keyed = [one for one in waiting if one[0].key is not None]
        if not keyed:
            return {together: waiting}
        found = {together: [one for one in waiting if one[0].key is None]}
        for one in keyed:
            partition = self._partitioner(one[0].key, partitions, partitions)
            found.setdefault(partition, []).append(one)
        return found

    async def _send(self, topic: str, partition: int, waiting: list[_Waiting]) -> None:
        """Send the records of one partition in as few batches as they fit in."""
        producer = self._producer()
        sent = 0
        while sent < len(waiting):
            batch = producer.create_batch()
            first = sent
            for record, _ in waiting[first:]:
                if not batch.append(
                    timestamp=None, key=record.key, value=record.value, headers=record.headers
                ):
                    break
                sent += 1
            taken = waiting[first:sent]
            try:
                await (await producer.send_batch(batch, topic, partition=partition))
            except MessageSizeTooLargeError as error:
                if len(taken) == 1:
                    taken[0][1].failed(error)
                else:  # none of them may be too large by itself
                    await asyncio.gather(*(self._send(topic, partition, [one]) for one in taken))
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                for _, delivery in taken:
                    delivery.failed(error)
            else:
                for _, delivery in taken:
                    delivery.arrived()
