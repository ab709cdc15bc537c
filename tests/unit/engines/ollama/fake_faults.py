"""What may go wrong with an answer of the fake server: refusals, and streams that are cut, garbled or stuck."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Signal:
    """What a stream does instead of sending bytes."""


DROP, WAIT = Signal(), Signal()
"""Cut the connection; wait for `FakeOllama.release`."""

Piece = bytes | Signal


@dataclass(frozen=True)
class Refusal:
    """An answer of another status than 200, before any chunk."""

    status: int
    error: str

    @property
    def body(self) -> str:
        return json.dumps({"error": self.error})


Fault = Refusal | Callable[[list[bytes]], Sequence[Piece]]
"""A refusal, or what to make of the lines of a stream."""


def error_line(error: str) -> Fault:
    """After the first line the server fails: it has said 200 already, so an error line is all it can send."""
    return lambda lines: [lines[0], json.dumps({"error": error}).encode() + b"\n"]


def without_end(lines: list[bytes]) -> Sequence[Piece]:
    """The stream ends well but for its last line."""
    return lines[:-1]


def repeating(token: str, times: int = 31) -> Fault:
    """The model says one token again and again; the server then ends the stream, in good order and without `done`."""

    def pieces(lines: list[bytes]) -> Sequence[Piece]:
        line = json.loads(lines[0])
        if "message" in line:
            line["message"]["content"] = token
        else:
            line["response"] = token
        return [*lines[:-1], *[json.dumps(line).encode() + b"\n"] * times]

    return pieces


def dropped(lines: list[bytes]) -> Sequence[Piece]:
    """The connection breaks after the first line."""
    return [lines[0], DROP]


def cut_within_a_line(lines: list[bytes]) -> Sequence[Piece]:
    """The stream ends in the middle of its last line."""
    return [*lines[:-1], lines[-1][:20]]


def garbage(lines: list[bytes]) -> Sequence[Piece]:
    """Something between us and the server puts in a line of its own."""
    return [lines[0], b"<html>Bad Gateway</html>\n", *lines[1:]]


def silent(lines: list[bytes]) -> Sequence[Piece]:
    """No byte comes before `release`."""
    return [WAIT, *lines]


def stalled(lines: list[bytes]) -> Sequence[Piece]:
    """After the first line nothing comes before `release`."""
    return [lines[0], WAIT, *lines[1:]]


def byte_by_byte(lines: list[bytes]) -> Sequence[Piece]:
    """Every byte comes alone, so characters are cut as well as lines."""
    return [bytes([byte]) for byte in b"".join(lines)]


def with_empty_lines(lines: list[bytes]) -> Sequence[Piece]:
    """Keep-alive newlines and Windows line ends."""
    return [b"\n", *(line.rstrip(b"\n") + b"\r\n\n" for line in lines)]
