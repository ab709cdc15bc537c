"""Headers whose names are any bytes, as producers other than Python's write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy


class RawName(str):
    """The name of a header that goes into a record as just these bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> Self:
        made = super().__new__(cls, raw.decode("latin-1"))
        made.raw = raw
        return made

    def encode(self, *_: Any) -> bytes:
        return self.raw


@contextmanager
def writing_raw_names() -> Iterator[None]:
    """Let producers take a `RawName`, which aiokafka's builder in C refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiokafka.producer.message_accumulator.DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
        yield
