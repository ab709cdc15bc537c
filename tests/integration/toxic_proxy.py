"""A TCP proxy that misbehaves on demand, to put faults between a client and a real server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
_CHUNK_BYTES = 16_384
_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Pass:
    """Forward everything both ways."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens: a connection is refused, one that is open is reset."""


@dataclass(frozen=True, slots=True)
class BlackHole:
    """Accept and swallow: no byte goes either way."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Fall silent after so many bytes of the server's answers on one connection, and keep it open."""

    after_bytes: int
    times: int | None = None
    """How many connections meet this fault before everything passes again; None: all of them."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection after so many bytes of the server's answers on it."""

    after_bytes: int
    times: int | None = None
    """How many connections meet this fault before everything passes again; None: all of them."""


@dataclass(frozen=True, slots=True)
class Trickle:
    """Let the server's answers through a few bytes at a time."""

    chunk_bytes: int = 1_000
    interval_s: float = 0.8


Mode = Pass | Refuse | BlackHole | Stall | Reset | Trickle


class ToxicProxy:
    """Forwards `port` to a server as `mode` says; set `mode` at any time, from any thread.

    A new mode takes hold of open connections too, at their next byte; bytes are counted from then on.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.accepted = 0
        """Connections taken so far."""
        self._target = (target_host, target_port)
        self._mode: Mode = Pass()
        self._faults_left: int | None = None
        self._generation = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._stop_listening()
        self._reset_all()
        for thread in self._threads:
            thread.join(timeout=10)

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._lock:
            self._mode = mode
            self._faults_left = mode.times if isinstance(mode, Stall | Reset) else None
            self._generation += 1
        if isinstance(mode, Refuse):
            self._stop_listening()
            self._reset_all()
        elif self._listener is None:
            self._listen()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._start(self._accept, listener)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            listener.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True, name="toxic-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # no longer listening
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(client)  # the server is away: so is its proxy
                continue
            server.settimeout(None)
            with self._lock:
                self.accepted += 1
                self._open |= {client, server}
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        passed, generation = 0, self._generation
        try:
            while chunk := source.recv(_CHUNK_BYTES):
                if generation != self._generation:
                    passed, generation = 0, self._generation
                passed += self._forward(chunk, sink, passed, is_answer)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(source, sink)
        finally:
            if is_answer:
                self._drop(source, sink)

    def _forward(self, chunk: bytes, sink: socket.socket, passed: int, is_answer: bool) -> int:
        """Send what the mode lets through and return how many bytes that was."""
        mode = self._mode
        if isinstance(mode, BlackHole):
            self._wait_for_another(mode)
        elif isinstance(mode, Trickle) and is_answer:
            for start in range(0, len(chunk), mode.chunk_bytes):
                sink.sendall(chunk[start : start + mode.chunk_bytes])
                self._closing.wait(mode.interval_s)
        elif isinstance(mode, Stall | Reset) and is_answer and passed + len(chunk) > mode.after_bytes:
            if not self._take_a_fault(mode):
                sink.sendall(chunk)
                return len(chunk)
            sink.sendall(chunk[: mode.after_bytes - passed])
            if isinstance(mode, Stall):
                self._closing.wait()
            raise ConnectionResetError
        else:
            sink.sendall(chunk)
        return len(chunk)

    def _take_a_fault(self, mode: Mode) -> bool:
        with self._lock:
            if self._mode is not mode:
                return False
            if self._faults_left is not None:
                self._faults_left -= 1
                if self._faults_left <= 0:
                    self._mode = Pass()
            return True

    def _wait_for_another(self, mode: Mode) -> None:
        while self._mode is mode and not self._closing.wait(_TICK_S):
            pass

    def _drop(self, *sockets: socket.socket) -> None:
        with self._lock:
            mine = [one for one in sockets if one in self._open]
            self._open -= set(mine)
        for one in mine:
            _reset(one)

    def _reset_all(self) -> None:
        with self._lock:
            everyone, self._open = self._open, set()
        for one in everyone:
            _reset(one)


def _reset(connection: socket.socket) -> None:
    """Close at once: the other side sees a reset, and a thread that waits on it wakes up."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    connection.close()
