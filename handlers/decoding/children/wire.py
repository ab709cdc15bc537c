"""What parent and child write to each other: a head in MessagePack and a block of bytes, each after its length."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

Block = bytes | bytearray | memoryview

LENGTHS = struct.Struct("<QQ")
"""The lengths in bytes of the head and of the block that follow."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """What a child is to run; the block is the content that it decodes."""

    function: str
    """As "module:name": takes the content and the arguments, and yields (value, block) pairs."""
    arguments: dict[str, Any]
    memory_bytes: int
    """Private memory that the process may take for it, beyond what it has."""
    cpu_s: float
    """Seconds of work that it may take, of all its threads together."""


class Began(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The function starts; a process that ends before it says so has not run the call."""


class Item(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One pair that the function yielded; the block is its second part."""

    value: Any


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What the function raised."""

    kind: str
    """The name of a class in `handlers.errors`, or of any other exception."""
    message: str
    trace: str
    """The stack trace, for the log, of an exception that is not in `handlers.errors`; else empty."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The function came to its end; nothing follows."""

    kept_bytes: int
    """Memory that the process has kept of all its calls; 0 where the system does not tell."""
    failure: Failure | None


Answer = Began | Item | Done

encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(Call).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def lengths_and_head(message: Call | Answer, block: Block = b"") -> bytes:
    """Return what is written before `block`."""
    head = encode(message)
    return LENGTHS.pack(len(head), len(block)) + head
