"""A batch that cannot be read stops its partition, after what is before it, and no other."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from aiokafka.record.default_records import DefaultRecordBase

from tests.unit.streams.faust.positions_rig import OTHER, PLACE, TOPIC, Rig, with_rig
from tests.unit.streams.kafka.test_header_names import sealed
from tests.unit.streams.received_messages import offsets_due


def with_wrong_checksum(made: bytes) -> bytes:
    return made[:-1] + bytes([made[-1] ^ 1])


def with_unknown_codec(made: bytes) -> bytes:
    changed = bytearray(made)
    changed[DefaultRecordBase.ATTRIBUTES_OFFSET + 1] |= 5
    return sealed(changed)


def with_unknown_format(made: bytes) -> bytes:
    return made[:16] + b"\x09" + made[17:]


def with_negative_format(made: bytes) -> bytes:
    return made[:16] + b"\xff" + made[17:]


def with_negative_length(made: bytes) -> bytes:
    return made[:8] + struct.pack(">i", -5) + made[12:]


def with_huge_length(made: bytes) -> bytes:
    return made[:8] + struct.pack(">i", 2**30) + made[12:]


def with_garbage_in_its_records(made: bytes) -> bytes:
    changed = bytearray(made)
    changed[DefaultRecordBase.HEADER_STRUCT.size] += 2  # the first record's length
    return sealed(changed)


def with_headers_beyond_its_end(made: bytes) -> bytes:
    changed = bytearray(made)
    at = changed.find(b"\x02\x08name")  # one header, of four bytes
    changed[at] = 0x7E
    return sealed(changed)


DAMAGES = (
    with_wrong_checksum,
    with_unknown_codec,
    with_unknown_format,
    with_negative_format,
    with_negative_length,
    with_huge_length,
    with_garbage_in_its_records,
    with_headers_beyond_its_end,
)


@pytest.mark.parametrize("damage", DAMAGES)
@with_rig
@pytest.mark.logs_errors("partition_stopped")
async def test_what_is_before_a_damaged_batch_is_delivered_its_partition_stops_and_others_go_on(
    rig: Rig, damage: Callable[[bytes], bytes]
) -> None:
    rig.log.append(3)
    rig.log.append(2, damage=damage)
    rig.log.append(1)
    await rig.assign()
    assert await rig.offsets() == [0, 1, 2]
    assert offsets_due(rig.tracker) == {PLACE: 3}
    for _ in range(5):
        assert await rig.next(timeout_s=1.0) == []
    [(place, why)] = rig.source.stopped_partitions.items()
    assert place == PLACE
    assert f"offset 3 of topic {TOPIC} partition 0" in why
    assert f"--topic {TOPIC}:0 --reset-offsets --to-offset" in why
    rig.brokers.logs[OTHER].append(2)
    assert await rig.offsets() == [0, 1]
    assert offsets_due(rig.tracker)[PLACE] == 3


@with_rig
@pytest.mark.logs_errors("partition_stopped")
async def test_the_way_past_a_damaged_batch_names_the_offset_behind_it(rig: Rig) -> None:
    rig.log.append(3, damage=with_wrong_checksum)
    rig.log.append(1)
    await rig.assign()
    await rig.next(timeout_s=2.0)
    assert "--to-offset 3 --execute" in rig.source.stopped_partitions[PLACE]


@with_rig
async def test_a_batch_that_is_whole_when_it_is_fetched_again_stops_nothing(rig: Rig) -> None:
    times = 0
    rig.log.append(2, damage=with_wrong_checksum)
    whole = type(rig.log)()
    whole.append(2)
    read = rig.log.read

    def read_again(offset: int) -> bytes:
        nonlocal times
        times += 1
        return read(offset) if times == 1 else whole.read(offset)

    rig.log.read = read_again  # type: ignore[method-assign]
    await rig.assign()
    assert await rig.offsets() == [0, 1]
    assert rig.source.stopped_partitions == {}
