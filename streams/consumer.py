"""Faust's consumer with its commit repaired: an offset in flight is never committed past."""

from __future__ import annotations

from typing import Any

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.types import TP


class SafeConsumer(driver.Consumer):
    """Commits at most the smallest offset in flight, whatever has been acked beyond it.

    faust-streaming 0.15.3 guards against out-of-order acks with `min(acked) - committed > 1`, which is off by
    one, and does not guard at all before the first commit. Both lose messages when the worker dies. Our acks
    come in order already; this holds even when they do not.
    Source: faust-streaming issue 606 and pull request 707.
    """

    def _new_offset(self, tp: TP) -> int | None:
        in_flight = [m.offset for m in self._unacked_messages if m.tp == tp and not m.acked]
        if not in_flight:
            return super()._new_offset(tp)
        floor = min(in_flight)
        acked = self._acked[tp]
        beyond = [offset for offset in acked if offset >= floor]
        if not beyond:
            return super()._new_offset(tp)
        self._acked[tp] = [offset for offset in acked if offset < floor]
        try:
            return super()._new_offset(tp)
        finally:
            self._acked[tp].extend(beyond)

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Creates the aiokafka consumer with the wait of an empty fetch as a setting; Faust hard-codes 1.5 s."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        assert isinstance(transport, SafeTransport)
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms
        return consumer


class SafeTransport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = SafeConsumer

    def __init__(self, *args: Any, fetch_max_wait_ms: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fetch_max_wait_ms = fetch_max_wait_ms
