"""Asks a Kafka broker on this machine two questions in its own protocol, without a client library."""

from __future__ import annotations

import socket
import struct

from deploy.local.ports import HOST

_TIMEOUT_S = 1.0
_METADATA, _API_VERSIONS = 3, 18
_CORRELATION_ID = 20_17


def speaks_kafka(port: int) -> bool:
    """Return whether what listens on `port` answers as a Kafka broker: only one repeats our number.

    Raises:
        OSError: retryable; nobody answered.
    """
    return _ask(port, _API_VERSIONS, 0, b"") is not None


def live_brokers(port: int) -> set[int]:
    """Return the node ids of the brokers that serve clients, as the broker on `port` knows them.

    Raises:
        OSError: retryable; nobody answered, or the answer was cut short.
    """
    answer = _ask(port, _METADATA, 1, struct.pack(">i", 0))  # of no topic: none is created by asking
    if answer is None:
        return set()
    try:
        (count,) = struct.unpack_from(">i", answer)
        position, found = 4, set()
        for _ in range(count):
            node, host_length = struct.unpack_from(">ih", answer, position)
            position += 6 + host_length + 4
            (rack_length,) = struct.unpack_from(">h", answer, position)
            position += 2 + max(rack_length, 0)
            found.add(node)
    except struct.error as error:
        raise ConnectionError(f"port {port} answered with {len(answer)} bytes that end early") from error
    return found


def _ask(port: int, api: int, version: int, body: bytes) -> bytes | None:
    """Return the body of the answer to one request, None where it does not carry our number.

    Source: https://kafka.apache.org/protocol (request and response header, version 1 and 0).
    """
    client_id = b"inferstream"
    request = struct.pack(">hhih", api, version, _CORRELATION_ID, len(client_id)) + client_id + body
    with socket.create_connection((HOST, port), _TIMEOUT_S) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as stream:
            head = stream.read(8)
            if len(head) < 8:
                return None
            length, number = struct.unpack(">ii", head)
            return stream.read(length - 4) if number == _CORRELATION_ID else None
