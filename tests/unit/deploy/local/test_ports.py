"""Free ports are free, different, and out of the way of outgoing connections."""

from __future__ import annotations

import socket
from pathlib import Path

from deploy.local.ports import HOST, free_ports, is_free


def test_ports_are_all_different_and_can_be_listened_on() -> None:
    ports = free_ports(20) + free_ports(20)
    assert len(set(ports)) == 40
    assert all(is_free(port) for port in ports)


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(50)) < first_ephemeral


def test_a_port_that_someone_listens_on_is_not_free() -> None:
    with socket.create_server((HOST, 0)) as taken:
        assert not is_free(taken.getsockname()[1])
