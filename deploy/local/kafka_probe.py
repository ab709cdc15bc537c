"""Asks a Kafka broker on this machine for the live brokers, in its own protocol, without a client library."""

from __future__ import annotations

import socket
import struct

from deploy.local.ports import HOST

_TIMEOUT_S = 1.0
_METADATA, _VERSION = 3, 1
_CORRELATION_ID = 20_17


def live_brokers(port: int) -> set[int]:
    """Return the node ids of the live brokers, as the broker on `port` knows them.

    Empty where the answer is not a broker's: only a broker repeats the number of our request.

    Raises:
        OSError: retryable; no server answered, or the answer was cut short.

    Source: https://kafka.apache.org/protocol (request and response header, version 1 and 0; Metadata, version 1).
    """
    client_id = b"inferstream"
    header = struct.pack(">hhih", _METADATA, _VERSION, _CORRELATION_ID, len(client_id)) + client_id
    request = header + struct.pack(">i", 0)  # of no topic: none is created by asking
    with socket.create_connection((HOST, port), _TIMEOUT_S) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as stream:
            head = stream.read(8)
            if len(head) < 8:
                return set()
            length, number = struct.unpack(">ii", head)
            if number != _CORRELATION_ID:
                return set()
            answer = stream.read(length - 4)
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
