"""What of Faust our consumer replaces or relies on is as it was when it was written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport import consumer as base
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.queues import FlowControlEvent

from streams.faust.faust_internals import BatchConsumer, BatchTransport
from tests.unit.streams.received_messages import TOPIC

PARTITION = TP(TOPIC, 0)


async def test_the_commit_of_stock_faust_would_pass_the_message_in_flight() -> None:
    """Why the commit is ours; when this fails, Faust may have been repaired (its issue 606)."""
    stock: Any = object.__new__(driver.Consumer)
    stock._acked = defaultdict(list, {PARTITION: [4, 5]})
    stock._acked_index = defaultdict(set, {PARTITION: {4, 5}})
    stock._gap = defaultdict(set)
    stock._committed_offset = defaultdict(lambda: None, {PARTITION: 3})
    assert stock._new_offset(PARTITION) == 6  # 3 is still in flight


def test_this_is_the_version_of_faust_that_the_consumer_was_written_for() -> None:
    assert importlib.metadata.version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    ("method", "fingerprint"),
    [
        # Replaced by ours: a change here may be one that ours needs too.
        (base.Consumer._drain_messages, "_drain_messages"),
        (base.Consumer.getmany, "getmany"),
        (base.Consumer.wait_empty, "wait_empty"),
        # Relied on, in this order: flow stops, queues are cleared, work drains; positions are sought, flow resumes.
        (base.Consumer.on_partitions_revoked, "on_partitions_revoked"),
        (base.Consumer.on_stop, "on_stop"),
        (App._on_partitions_revoked, "App._on_partitions_revoked"),
        (App._stop_consumer, "App._stop_consumer"),
        (Recovery._resume_streams, "Recovery._resume_streams"),
        (FlowControlEvent.resume, "FlowControlEvent.resume"),
        (Conductor._update_indices, "Conductor._update_indices"),
        # Called or overridden under names that are Faust's own business.
        (driver.AIOKafkaConsumerThread._fetch_records, "_fetch_records"),
        (driver.AIOKafkaConsumerThread._ensure_consumer, "_ensure_consumer"),
        (driver.ConsumerRebalanceListener.on_partitions_assigned, "on_partitions_assigned"),
        (driver.Producer._ensure_producer, "_ensure_producer"),
    ],
)
def test_what_is_replaced_or_relied_on_in_faust_is_as_it_was(method: Callable[..., Any], fingerprint: str) -> None:
    assert fingerprint_of(method) == FINGERPRINTS[fingerprint], (
        f"{method.__qualname__} has changed: read it, compare faust_internals.py, then note it"
    )


def fingerprint_of(method: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]


def test_the_transport_brings_our_consumer() -> None:
    assert BatchTransport.Consumer is BatchConsumer


FINGERPRINTS: dict[str, str] = {
    "_drain_messages": "44a2500309e8",
    "getmany": "4b168d84882a",
    "wait_empty": "e4662fe24f09",
    "on_partitions_revoked": "d04b7ae72c6f",
    "on_stop": "45b1d2210ce2",
    "App._on_partitions_revoked": "d5c895bbe57d",
    "App._stop_consumer": "55854a5de12c",
    "Recovery._resume_streams": "d986a6710c1a",
    "FlowControlEvent.resume": "4dcdc1253fd0",
    "Conductor._update_indices": "619b3247b96a",
    "_fetch_records": "39a2c6c79fc1",
    "_ensure_consumer": "ff4a4c693b7e",
    "on_partitions_assigned": "1c1f8406ad36",
    "_ensure_producer": "5592a4bbdf25",
}
