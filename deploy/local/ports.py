"""Free ports on loopback, and probes of the servers there."""

from __future__ import annotations

import random
import socket
from itertools import islice
from pathlib import Path
from threading import Lock

import httpx
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.metadata import MetadataRequest_v1, MetadataResponse_v1
from aiokafka.protocol.types import Int32

HOST = "127.0.0.1"

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15_000
_HTTP_TIMEOUT_S = 2.0
_KAFKA_TIMEOUT_S = 1.0
_CORRELATION_ID = 20_17
_given: set[int] = set()
_lock = Lock()


def free_ports(count: int) -> list[int]:
    """Return `count` different free ports, none of them returned before by this process.

    They are below the range from which the system numbers outgoing connections. Within it a client that keeps
    reconnecting while its server is down may get the server's port, connect to itself, and block the server's
    restart. Nothing reserves a port: another process may still take it first.

    Raises:
        OSError: retryable; no free port was found.
    """
    candidates = list(range(_LOWEST, _first_ephemeral()))
    random.shuffle(candidates)
    with _lock:
        chosen = list(islice((port for port in candidates if port not in _given and is_free(port)), count))
        _given.update(chosen)
    if len(chosen) < count:
        raise OSError(f"no {count} free ports between {_LOWEST} and {_first_ephemeral()} on {HOST}")
    return chosen


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # Servers set it too: connections of a stopped server that linger in TIME_WAIT do not get in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > _LOWEST + 1_000 else 65_536


def http_get(port: int, path: str) -> httpx.Response:
    """Return the answer to a GET on this machine, without a proxy; OSError (retryable) if none answers in HTTP."""
    try:
        # `verify`: without TLS there is no certificate to check, and to load those of the system takes long.
        return httpx.get(f"http://{HOST}:{port}{path}", timeout=_HTTP_TIMEOUT_S, trust_env=False, verify=False)
    except httpx.HTTPError as error:
        raise ConnectionError(f"port {port} does not answer in HTTP: {error}") from error


def live_brokers(port: int) -> set[int]:
    """Return the node ids of the live brokers, as the Kafka broker on `port` knows them. It is asked once, where a
    client would try again and log.

    Empty where the answer is not a broker's: only a broker repeats the number of our request.

    Raises:
        OSError: retryable; no server answered, or the answer was cut short.
    """
    request = MetadataRequest_v1([])  # of no topic: none is created by asking
    message = RequestHeader_v1(request, _CORRELATION_ID, "inferstream").encode() + request.encode()
    with socket.create_connection((HOST, port), _KAFKA_TIMEOUT_S) as connection:
        connection.sendall(Int32.encode(len(message)) + message)
        with connection.makefile("rb") as stream:
            head = stream.read(8)
            if head[4:] != Int32.encode(_CORRELATION_ID):
                return set()
            answer = stream.read(int.from_bytes(head[:4]) - 4)
    try:
        return {node for node, *_ in MetadataResponse_v1.decode(answer).brokers}
    except ValueError as error:
        raise ConnectionError(f"port {port} answered with {len(answer)} bytes that end early") from error
