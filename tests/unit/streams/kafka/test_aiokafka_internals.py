"""What one consumer fetches is read and delivered as asked, and that of no other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.delivery.port import Record
from streams.faust.positions import record_of
from streams.kafka.aiokafka_internals import parse_fetches
from streams.kafka.header_names import ForgivingRecords

PLACE = TopicPartition("requests", 3)
HEADERS = [("name", b"content"), ("name", None)]


def consumer(value_deserializer: Callable[[bytes | None], Any] | None = None) -> Any:
    """Stands for a started consumer."""
    return SimpleNamespace(_fetcher=fetcher.Fetcher.__new__(fetcher.Fetcher), _value_deserializer=value_deserializer)


def batch() -> bytes:
    made = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=100_000,
    )
    made.append(0, 1000, b"key", b"first", HEADERS)
    made.append(1, 1001, None, None, [])
    return bytes(made.build())


def fetched_by(whose: Any, *, position: int = 0) -> list[Any]:
    """Return what the fetcher of a consumer makes of an answer to a fetch at `position`."""
    known = whose._fetcher._proc_fetch_request.__globals__
    records = known["MemoryRecords"](batch())
    return list(known["PartitionRecords"](PLACE, records, None, position, None, whose._value_deserializer, True, 0))


def test_a_record_comes_as_received_with_all_that_is_read_of_it() -> None:
    ours = consumer()
    parse_fetches(ours, ForgivingRecords, record_of)
    first, second = fetched_by(ours)
    assert isinstance(first, Record)
    assert (first.topic, first.partition, first.offset, first.timestamp) == ("requests", 3, 0, 1000)
    assert (first.key, first.value, list(first.headers)) == (b"key", b"first", HEADERS)
    assert (second.key, second.value, list(second.headers)) == (None, None, [])
    assert (first.is_done, first.account) == (False, None)


def test_what_lies_before_the_position_is_left_out_as_ever() -> None:
    ours = consumer()
    parse_fetches(ours, ForgivingRecords, record_of)
    assert [one.offset for one in fetched_by(ours, position=1)] == [1]


def test_other_consumers_of_the_process_get_the_records_they_know_and_no_module_is_patched() -> None:
    def as_text(value: bytes | None) -> str:
        return (value or b"nothing").decode()

    before = dict(vars(fetcher))
    ours, plain, other = consumer(), consumer(), consumer(as_text)
    parse_fetches(ours, ForgivingRecords, record_of)
    first, second = fetched_by(other)
    assert isinstance(first, ConsumerRecord)
    assert (first.value, second.value, first.timestamp_type) == ("first", "nothing", 0)
    assert all(isinstance(one, ConsumerRecord) for one in fetched_by(plain))
    assert dict(vars(fetcher)) == before


def test_aiokafka_still_makes_records_where_it_is_told_to_make_ours() -> None:
    assert "MemoryRecords(part_data[-1])" in inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "PartitionRecords(" in inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "self._consumer_record(tp, record)" in inspect.getsource(fetcher.PartitionRecords._unpack_records)
