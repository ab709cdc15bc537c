"""What children run in tests of the pool: functions that answer, crash, hang, grow, raise and report."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from handlers.errors import InvalidInput

Pairs = Iterator[tuple[Any, bytes]]


def echo(content: bytes, **arguments: Any) -> Pairs:
    for _ in range(arguments.get("times", 1)):
        yield {"pid": os.getpid(), **arguments}, content


def crash(content: bytes, *, by: int, note: str = os.devnull) -> Pairs:
    with Path(note).open("a", encoding="ascii") as ran:
        ran.write("ran\n")
    yield "begun", content
    os.kill(os.getpid(), by)


def leave(content: bytes) -> Pairs:
    yield "begun", content
    os._exit(3)


def hang(content: bytes) -> Pairs:
    yield os.getpid(), content
    threading.Event().wait()


def wait(content: bytes, *, seconds: float) -> Pairs:
    threading.Event().wait(seconds)
    yield "waited", content


def toil(content: bytes) -> Pairs:
    yield os.getpid(), content
    while True:
        pass


def grow(content: bytes) -> Pairs:
    kept = [content]
    while True:
        kept.append(bytes(1 << 24))
        yield len(kept), b""


def keep(content: bytes, *, size: int) -> Pairs:
    global _kept
    _kept = b"x" * size
    yield os.getpid(), content


_kept = b""


def take(content: bytes, *, size: int) -> Pairs:
    yield os.getpid(), bytes(size)[:1]


def starve(content: bytes) -> Pairs:
    """Take all memory that there is, to the last page, and go on."""
    yield os.getpid(), content
    kept = []
    with contextlib.suppress(MemoryError):
        while True:
            kept.append(bytes(1 << 17))
    threading.Event().wait()


def refuse(content: bytes) -> Pairs:
    yield "begun", content
    raise InvalidInput("data.x is wrong; make it right")


def fail(content: bytes) -> Pairs:
    yield "begun", content
    raise KeyError("a fault")


def leave_by_exit(content: bytes) -> Pairs:
    yield "begun", content
    raise SystemExit(1)


def chatter(content: bytes) -> Pairs:
    os.write(1, b"from native code")
    os.write(2, b"from native code")
    print("from Python")  # noqa: T201
    warnings.warn("of a damaged file", stacklevel=1)
    structlog.get_logger().info("undecodable")
    yield "said", content
