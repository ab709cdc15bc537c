"""Asks a Kafka broker on this machine for the live brokers: once, where a client would try again and log."""

from __future__ import annotations

import socket

from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.metadata import MetadataRequest_v1, MetadataResponse_v1
from aiokafka.protocol.types import Int32

from deploy.local.ports import HOST

_TIMEOUT_S = 1.0
_CORRELATION_ID = 20_17


def live_brokers(port: int) -> set[int]:
    """Return the node ids of the live brokers, as the broker on `port` knows them.

    Empty where the answer is not a broker's: only a broker repeats the number of our request.

    Raises:
        OSError: retryable; no server answered, or the answer was cut short.
    """
    request = MetadataRequest_v1([])  # of no topic: none is created by asking
    message = RequestHeader_v1(request, _CORRELATION_ID, "inferstream").encode() + request.encode()
    with socket.create_connection((HOST, port), _TIMEOUT_S) as connection:
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
