"""The messages between parent and child: a head in MessagePack and a block of bytes, each after its length."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

Block = bytes | bytearray | memoryview

LENGTHS = struct.Struct("<QQ")
"""The lengths in bytes of the head and of the block that follow."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A function for a child to run; the block is the content to decode."""

    function: str
    """As "module:name": takes the content and the arguments, and yields (value, block) pairs."""
    arguments: dict[str, Any]
    memory_bytes: int
    """Most private memory for the call, beyond what the process has."""
    cpu_s: float
    """Most seconds of processor time, of all threads together."""


class Began(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Sent before the function starts; a process that ends before has not run the call."""


class Item(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One pair that the function yielded; the block is its second part."""

    value: Any


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The exception of the function."""

    kind: str
    """The name of a class in `handlers.errors`, or of any other exception."""
    message: str
    trace: str
    """The stack trace, for the log, of an exception that is not in `handlers.errors`; else empty."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Sent at the end of the function; nothing follows."""

    kept_bytes: int
    """Memory that the process keeps after all its calls; 0 where it is not known."""
    failure: Failure | None


Answer = Began | Item | Done

encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(Call).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def lengths_and_head(message: Call | Answer, block: Block = b"") -> bytes:
    """Return what is written before `block`."""
    head = encode(message)
    return LENGTHS.pack(len(head), len(block)) + head
