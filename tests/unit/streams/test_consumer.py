"""The repaired commit of Faust's consumer, each case with what stock Faust does instead."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from intervaltree import IntervalTree

from streams.consumer import SafeConsumer

PARTITION = TP("requests", 0)


@dataclass(frozen=True)
class InFlight:
    offset: int
    tp: TP = PARTITION
    acked: bool = False


def consumer(kind: type[Any], *, acked: list[int], in_flight: list[int], committed: int | None) -> Any:
    made: Any = object.__new__(kind)
    made._acked = defaultdict(list, {PARTITION: list(acked)})
    made._acked_index = defaultdict(set, {PARTITION: set(acked)})
    made._gap = defaultdict(IntervalTree)
    made._committed_offset = defaultdict(lambda: None, {PARTITION: committed})
    made._unacked_messages = {InFlight(offset) for offset in in_flight}
    return made


@pytest.mark.parametrize("committed", [None, 0, 3])
def test_what_is_acked_beyond_an_offset_in_flight_is_not_committed(committed: int | None) -> None:
    first = committed or 0
    beyond = [first + 1, first + 2]
    safe = consumer(SafeConsumer, acked=beyond, in_flight=[first], committed=committed)
    stock = consumer(driver.Consumer, acked=beyond, in_flight=[first], committed=committed)
    assert safe._new_offset(PARTITION) is None
    assert stock._new_offset(PARTITION) == first + 3  # what loses offset `first` when the worker dies


def test_acks_beyond_are_kept_and_committed_once_the_gap_closes() -> None:
    safe = consumer(SafeConsumer, acked=[4, 5], in_flight=[3], committed=3)
    assert safe._new_offset(PARTITION) is None
    safe._unacked_messages = set()
    safe._acked[PARTITION].append(3)
    assert safe._new_offset(PARTITION) == 6


def test_the_finished_prefix_below_the_offset_in_flight_is_committed() -> None:
    safe = consumer(SafeConsumer, acked=[3, 4, 6], in_flight=[5], committed=3)
    assert safe._new_offset(PARTITION) == 5
    assert safe._acked[PARTITION] == [6]


def test_another_partition_in_flight_changes_nothing() -> None:
    safe = consumer(SafeConsumer, acked=[3], in_flight=[], committed=3)
    safe._unacked_messages = {InFlight(0, tp=TP("requests", 1))}
    assert safe._new_offset(PARTITION) == 4


def test_nothing_acked_means_nothing_to_commit() -> None:
    assert consumer(SafeConsumer, acked=[], in_flight=[3], committed=3)._new_offset(PARTITION) is None
