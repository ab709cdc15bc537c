"""Records whose headers have names that are no UTF-8 are read like any other, each once, with those around them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record import memory_records
from aiokafka.record.default_records import (
    DefaultRecordBase,
    DefaultRecordBatch,
    _DefaultRecordBatchBuilderPy,
    _DefaultRecordBatchPy,
)
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka import header_names
from streams.kafka.aiokafka_internals import read_leniently
from streams.kafka.header_names import ForgivingRecords
from tests.raw_names import RawName

Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
PLAIN: Message = (b"key", b"value", [("name", b"content")])
NAMED_BADLY: Message = (b"key", b"value", [(RawName(b"\xff-\xc3"), b"content"), ("name", None)])

HEADER = DefaultRecordBase.HEADER_STRUCT
ATTRIBUTES = DefaultRecordBase.ATTRIBUTES_OFFSET


def batch(first: int, messages: Sequence[Message], *, codec: int = 0, attributes: int = 0) -> bytes:
    """Return a batch as a broker has it that gave its first record the offset `first`."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 1_000_000)
    for number, (key, value, headers) in enumerate(messages):
        builder.append(number, 1000 + number, key, value, headers)
    made = builder.build()
    struct.pack_into(">q", made, 0, first)
    (own,) = struct.unpack_from(">h", made, ATTRIBUTES)
    struct.pack_into(">h", made, ATTRIBUTES, own | attributes)
    return sealed(made)


def sealed(made: bytearray) -> bytes:
    struct.pack_into(">I", made, DefaultRecordBase.CRC_OFFSET, calc_crc32c(bytes(made[ATTRIBUTES:])))
    return bytes(made)


def fetched(data: bytes, *, position: int = 0) -> PartitionRecords:
    """Return what aiokafka's fetcher makes of the answer to a fetch at `position`."""
    place = TopicPartition("requests", 0)
    return PartitionRecords(place, ForgivingRecords(data), None, position, None, None, True, 0)


def offsets(data: bytes, *, position: int = 0) -> list[int]:
    return [record.offset for record in fetched(data, position=position)]


def test_bytes_that_are_no_utf8_become_replacement_characters_and_all_else_is_as_it_came() -> None:
    (record,) = fetched(batch(7, [NAMED_BADLY]))
    assert (record.offset, record.timestamp, record.timestamp_type) == (7, 1000, 0)
    assert (record.key, record.value) == (b"key", b"value")
    assert record.headers == (("\ufffd-\ufffd", b"content"), ("name", None))


def test_a_half_of_a_surrogate_pair_is_no_utf8() -> None:
    (record,) = fetched(batch(0, [(None, b"value", [(RawName(b"\xed\xa0\x80"), b"")])]))
    assert record.headers == (("\ufffd\ufffd\ufffd", b""),)


def test_each_record_of_the_batch_comes_once_and_in_order() -> None:
    messages = [PLAIN, PLAIN, NAMED_BADLY, PLAIN, NAMED_BADLY, PLAIN]
    assert offsets(batch(0, messages)) == [0, 1, 2, 3, 4, 5]


def test_batches_around_it_are_read_too() -> None:
    data = batch(0, [PLAIN, PLAIN]) + batch(2, [NAMED_BADLY]) + batch(3, [PLAIN, NAMED_BADLY]) + batch(5, [PLAIN])
    assert offsets(data) == [0, 1, 2, 3, 4, 5]


def test_a_batch_that_is_cut_off_at_the_end_of_a_fetch_is_left_for_the_next() -> None:
    data = batch(0, [NAMED_BADLY]) + batch(1, [NAMED_BADLY])
    assert offsets(data[:-1]) == [0]


def test_a_fetch_that_begins_behind_it_in_its_batch_goes_on_from_there() -> None:
    """As after a restart: the broker sends a batch whole, and aiokafka meets the name again."""
    assert offsets(batch(0, [PLAIN, NAMED_BADLY, PLAIN, PLAIN]), position=2) == [2, 3]


@pytest.mark.processes
def test_where_the_codecs_are_missing_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "cramjam.py").write_text("raise ImportError('cramjam is missing')")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-c", "import aiokafka, streams.kafka.header_names"]
    ended = subprocess.run(run, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.endswith("ImportError: cramjam is missing\n")


@pytest.mark.parametrize(
    "codec",
    [
        pytest.param(DefaultRecordBase.CODEC_GZIP, id="gzip"),
        pytest.param(DefaultRecordBase.CODEC_SNAPPY, id="snappy"),
        pytest.param(DefaultRecordBase.CODEC_LZ4, id="lz4"),
        pytest.param(DefaultRecordBase.CODEC_ZSTD, id="zstd"),
    ],
)
def test_compressed_batches_are_read_too(codec: int) -> None:
    long: Message = (b"key", b"value" * 100, NAMED_BADLY[2])
    data = batch(0, [PLAIN, long, PLAIN], codec=codec)
    assert DefaultRecordBatch(data).compression_type == codec
    records = list(fetched(data))
    assert [record.offset for record in records] == [0, 1, 2]
    assert [record.value for record in records] == [b"value", b"value" * 100, b"value"]


def test_the_time_is_that_of_the_append_where_the_broker_keeps_that() -> None:
    data = batch(0, [NAMED_BADLY, NAMED_BADLY], attributes=DefaultRecordBase.TIMESTAMP_TYPE_MASK)
    assert [(record.timestamp, record.timestamp_type) for record in fetched(data)] == [(1001, 1), (1001, 1)]


def test_control_batches_are_skipped() -> None:
    control = batch(0, [(b"\0\0\0\1", b"", [])], attributes=DefaultRecordBase.CONTROL_MASK)
    assert offsets(control + batch(1, [NAMED_BADLY])) == [1]


def test_aiokafka_without_its_c_extensions_is_forgiven_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_records, "DefaultRecordBatch", _DefaultRecordBatchPy)
    monkeypatch.setattr(header_names, "MemoryRecords", memory_records._MemoryRecordsPy)
    assert offsets(batch(0, [PLAIN, NAMED_BADLY, PLAIN])) == [0, 1, 2]


@pytest.mark.parametrize("messages", [[PLAIN, PLAIN], [NAMED_BADLY, PLAIN]], ids=["well named", "badly named"])
def test_a_record_whose_length_is_wrong_stays_corrupt(messages: list[Message]) -> None:
    made = bytearray(batch(0, messages))
    made[HEADER.size] += 2  # the first record's length, in zigzag
    with pytest.raises(CorruptRecordException):
        list(fetched(sealed(made)))


def test_a_batch_whose_checksum_is_wrong_stays_corrupt() -> None:
    made = bytearray(batch(0, [NAMED_BADLY]))
    made[-1] ^= 1
    with pytest.raises(CorruptRecordException, match="CRC"):
        list(fetched(bytes(made)))


blobs = st.none() | st.binary(max_size=300)
messages = st.tuples(blobs, blobs, st.lists(st.tuples(st.text(max_size=20), blobs), max_size=4))


@given(st.lists(messages, min_size=1, max_size=5), st.integers(0, 2**40))
def test_what_aiokafka_can_read_is_read_as_it_reads_it(made: list[Message], first: int) -> None:
    def told(record: Any) -> tuple[Any, ...]:
        return record.offset, record.timestamp, record.key, record.value, record.headers, record.checksum

    data = batch(first, made)
    ours = read_leniently(memoryview(data))
    assert list(map(told, ours)) == list(map(told, DefaultRecordBatch(data)))
