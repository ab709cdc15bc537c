"""The proxy's faults are what their names say, so that tests that use it prove something."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.toxic_proxy import HOST, BlackHole, Pass, Refuse, Reset, Stall, ToxicProxy, Trickle

_ANSWER = bytes(range(256)) * 400


@pytest.fixture
def proxy() -> Iterator[ToxicProxy]:
    """A proxy before a server that answers each connection's first bytes with `_ANSWER` and closes it."""
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):  # a fault reached us
                if connection.recv(100):
                    connection.sendall(_ANSWER)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with ToxicProxy(HOST, listener.getsockname()[1]) as running:
        yield running
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=10)


def _ask(proxy: ToxicProxy, *, timeout_s: float = 20.0) -> tuple[bytes, type[Exception] | None]:
    """Return what arrived, and how the connection failed, if it did."""
    received = bytearray()
    try:
        with socket.create_connection((HOST, proxy.port), timeout_s) as connection:
            connection.sendall(b"give")
            while chunk := connection.recv(65_536):
                received += chunk
    except OSError as error:
        return bytes(received), type(error)
    return bytes(received), None


def test_without_a_fault_everything_passes(proxy: ToxicProxy) -> None:
    assert _ask(proxy) == (_ANSWER, None)
    assert proxy.accepted == 1


def test_refuse_refuses_until_it_passes_again_on_the_same_port(proxy: ToxicProxy) -> None:
    port = proxy.port
    proxy.mode = Refuse()
    assert _ask(proxy) == (b"", ConnectionRefusedError)
    proxy.mode = Pass()
    assert proxy.port == port
    assert _ask(proxy) == (_ANSWER, None)


def test_a_black_hole_accepts_and_says_nothing(proxy: ToxicProxy) -> None:
    proxy.mode = BlackHole()
    assert _ask(proxy, timeout_s=0.3) == (b"", TimeoutError)
    assert proxy.accepted == 1


def test_a_stall_falls_silent_after_so_many_bytes(proxy: ToxicProxy) -> None:
    proxy.mode = Stall(after_bytes=1_000)
    assert _ask(proxy, timeout_s=0.5) == (_ANSWER[:1_000], TimeoutError)


def test_a_reset_breaks_the_connection_and_leaves_the_next_alone_when_told_to(proxy: ToxicProxy) -> None:
    proxy.mode = Reset(after_bytes=50_000, times=1)
    received, failure = _ask(proxy)
    assert failure is ConnectionResetError
    assert _ANSWER.startswith(received)
    assert len(received) <= 50_000
    assert _ask(proxy) == (_ANSWER, None)


def test_a_trickle_arrives_whole_in_small_pieces(proxy: ToxicProxy) -> None:
    proxy.mode = Trickle(chunk_bytes=5_000, interval_s=0.01)
    with socket.create_connection((HOST, proxy.port), 20) as connection:
        connection.sendall(b"give")
        pieces = [len(connection.recv(65_536))]
        while piece := connection.recv(65_536):
            pieces.append(len(piece))
    assert sum(pieces) == len(_ANSWER)
    assert len(pieces) > 5
