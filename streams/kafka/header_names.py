"""Reads records whose header names are not UTF-8: those bytes become replacement characters.

aiokafka raises UnicodeDecodeError at such a name. Any producer can write one. A batch is only read from its start, so
no later record of the batch could be read: its partition would be stuck for ever.
Source: record batches of Kafka's protocol, version 2; Kafka's Java consumer reads names in this way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

# Not used here: aiokafka starts without it, and then fails at the first batch of another codec than gzip.
import cramjam  # noqa: F401
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

from streams.kafka.aiokafka_internals import read_leniently

_OFFSET_AND_LENGTH = struct.Struct(">qi")
_OFFSET_TO_FORMAT = struct.Struct(">qiib")
_LAST_OFFSET = struct.Struct(">qiibIhi")
"""Position in a batch of the last offset, as a difference to the first."""
_LATEST_FORMAT = 2


class ForgivingRecords:
    """Takes the place of aiokafka's `MemoryRecords`: the batches of one fetch of one partition."""

    def __init__(self, fetched: bytes) -> None:
        self._records = MemoryRecords(fetched)
        self._fetched = memoryview(fetched)
        self._start = 0
        self._next_start = 0
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> Any:
        """Return the next batch, None where there is none.

        Raises:
            CorruptRecordException: its length or format is invalid, so the rest cannot be found.
        """
        start = self._start = self._next_start
        batch = self._records.next_batch()
        if batch is None:
            return None
        _, length, _, magic = _OFFSET_TO_FORMAT.unpack_from(self._fetched, start)
        if not 0 <= magic <= _LATEST_FORMAT:
            # aiokafka takes the first batch's format for that of all, and a later one for the latest it knows.
            raise CorruptRecordException(f"format {magic} of record batches is not known")
        self._next_start = start + _OFFSET_AND_LENGTH.size + length
        if batch.is_control_batch:  # the broker's own, which has no headers
            return batch
        return _ForgivingBatch(batch, self._fetched[start : self._next_start])

    @property
    def behind_batch(self) -> int | None:
        """The offset behind the batch that was returned last, or failed; None where it is not known."""
        try:
            first, length = _OFFSET_AND_LENGTH.unpack_from(self._fetched, self._start)
            following = self._start + _OFFSET_AND_LENGTH.size + length
            if length > 0 and following + _OFFSET_AND_LENGTH.size <= len(self._fetched):
                behind, _ = _OFFSET_AND_LENGTH.unpack_from(self._fetched, following)
            else:
                behind = first + 1 + _LAST_OFFSET.unpack_from(self._fetched, self._start)[-1]
        except struct.error:
            return None
        return int(behind) if behind > first else None


class _ForgivingBatch:
    """One batch of aiokafka's, except for header names."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        """Yield the records; starts again at the first where a name is not UTF-8.

        A fetch skips records before its position: it usually begins within a batch.
        """
        try:
            yield from self._batch
        except (UnicodeDecodeError, CorruptRecordException) as error:
            # Without its C extensions aiokafka wraps the one in the other.
            if not isinstance(error.__cause__ or error, UnicodeDecodeError):
                raise
            yield from read_leniently(self._data)
