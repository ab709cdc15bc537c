"""Sends records to the broker in batches, one batch per partition at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from engines.log_context import LineLimit, shared_task
from handlers.logger import get_logger
from streams.delivery.port import DeliveryReport, ProducerRecord, RecordSink
from streams.faults import supervised
from streams.kafka.connection import is_passing

log = get_logger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LINE_EVERY_S = 30.0


class _Awaited(DeliveryReport):
    """Reports the end of a delivery to a future; does nothing where the waiting caller has gone."""

    future: asyncio.Future[None] = msgspec.field(default_factory=asyncio.Future)

    def ended(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class BatchingProducer:
    """Collects records by topic and sends the batches of a topic one after the other.

    While a batch is under way the next one collects, so batches grow with the load and a lone record leaves at once.
    Lives on the event loop of its sink. Records with one key go to one partition, chosen as by Kafka's default
    partitioner; those without a key go together to one at random.

    While the broker is away or slow, batches are sent again until it answers.
    """

    def __init__(self, sink: RecordSink) -> None:
        self._sink = sink
        self._waiting: dict[str, list[ProducerRecord]] = {}
        """The queue of each topic that is being sent to."""
        self._sending: set[asyncio.Task[None]] = set()
        self._partitioner = DefaultPartitioner()
        self._lines = LineLimit(1, _LINE_EVERY_S)

    async def deliver(self, *records: ProducerRecord) -> None:
        """Return once the broker has acknowledged all of them.

        Raises:
            MessageSizeTooLargeError: one is too large for the broker.
            KafkaError: the broker refuses one of them.
        """
        delivery = _Awaited()
        self.post(records, delivery)
        await delivery.future

    def post(self, records: Sequence[ProducerRecord], delivery: DeliveryReport) -> None:
        """Send all of them; `delivery`, a new report, is called at the end."""
        delivery.missing = len(records)
        for record in records:
            record.delivery = delivery
            topic = record.topic
            waiting = self._waiting.get(topic)
            if waiting is None:
                self._waiting[topic] = [record]
                sending = supervised(shared_task(self._send_all(topic), name=f"send {topic}"))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)
            else:
                waiting.append(record)

    async def _send_all(self, topic: str) -> None:
        """Send batches until the queue of `topic` is empty."""
        while waiting := self._waiting[topic]:
            self._waiting[topic] = []
            try:
                partitions = await self._partitions_of(topic, len(waiting))
                by_partition = self._by_partition(waiting, partitions)
                sends = [self._send(topic, number, records) for number, records in by_partition.items()]
                for ended in await asyncio.gather(*sends, return_exceptions=True):
                    if ended is not None:
                        raise ended
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                _report(waiting, error)
        del self._waiting[topic]

    async def _partitions_of(self, topic: str, records: int) -> list[int]:
        while True:
            try:
                return await self._sink.partitions(topic)
            except KafkaError as error:
                if not is_passing(error):
                    raise
                self._tell_of_wait(error, topic=topic, records=records)
                await asyncio.sleep(_FIRST_PAUSE_S)

    def _tell_of_wait(self, error: Exception, *, topic: str, **about: int) -> None:
        if self._lines.allows(topic):
            log.warning("records_wait_for_broker", topic=topic, **about, error=repr(error))

    def _by_partition(self, waiting: list[ProducerRecord], partitions: list[int]) -> dict[int, list[ProducerRecord]]:
        together = random.choice(partitions)
        keyed = [record for record in waiting if record.key is not None]
        if not keyed:
            return {together: waiting}
        found = {together: [record for record in waiting if record.key is None]}
        for record in keyed:
            partition = self._partitioner(record.key, partitions, partitions)
            found.setdefault(partition, []).append(record)
        return found

    async def _send(self, topic: str, partition: int, waiting: list[ProducerRecord]) -> None:
        """Send the records of one partition in as few batches as possible."""
        sent = 0
        pause_s = _FIRST_PAUSE_S
        while sent < len(waiting):
            count, error = await self._sink.send(topic, partition, waiting[sent:] if sent else waiting)
            taken = waiting if count == len(waiting) else waiting[sent : sent + count]
            if error is None:
                _report(taken, None)
            elif is_passing(error):
                self._tell_of_wait(error, topic=topic, partition=partition, records=len(waiting) - sent)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            elif isinstance(error, MessageSizeTooLargeError) and count > 1:
                # Perhaps none of them alone is too large.
                await asyncio.gather(*(self._send(topic, partition, [record]) for record in taken))
            else:
                _report(taken, error)
            sent += count


def _report(records: list[ProducerRecord], error: Exception | None) -> None:
    """Report that the broker has those of `records` that were not answered before, or refuses them with `error`."""
    # The first is reported last: then the acks of all move the position in one step.
    for record in reversed(records):
        if (delivery := record.delivery) is not None:
            record.delivery = None
            delivery.answered(record, error)
