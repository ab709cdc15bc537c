"""Free ports on loopback, and HTTP probes of servers there."""

from __future__ import annotations

import http.client
import random
import socket
from pathlib import Path
from threading import Lock

HOST = "127.0.0.1"

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15_000
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
    chosen: list[int] = []
    with _lock:
        for port in candidates:
            if len(chosen) == count:
                break
            if port not in _given and is_free(port):
                chosen.append(port)
                _given.add(port)
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


_TIMEOUT_S = 2.0


def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET on this machine, without a proxy.

    Raises:
        OSError: retryable; no server answered, or not in HTTP.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"port {port} does not speak HTTP: {error}") from error
    finally:
        connection.close()
