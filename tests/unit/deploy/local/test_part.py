"""A part starts when healthy, explains a failed start, and comes back under the same address."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread

import pytest

from deploy.local import part as part_module
from deploy.local.part import Part, PartStatus, StackError
from deploy.local.ports import HOST, free_ports, http_get, is_free
from tests.processes import all_gone, wait_until


class WebServer(Part):
    """The smallest real server: Python's own."""

    name = "web"
    start_timeout_s = 30.0

    def command(self) -> Sequence[str]:
        return [sys.executable, "-u", "-m", "http.server", "--bind", HOST, str(self.ports["main"])]

    def is_healthy(self) -> bool:
        return http_get(self.ports["main"], "/").is_success


class DyingServer(WebServer):
    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", "import sys; print('no disk left'); sys.exit(3)"]


class LateServer(WebServer):
    start_timeout_s = 1.0

    def command(self) -> Sequence[str]:
        return [sys.executable, "-uc", "import time; print('thinking'); time.sleep(600)"]


class Statuses(list[PartStatus]):
    def names(self) -> list[str]:
        return [status.status for status in self]


@pytest.fixture
def statuses() -> Statuses:
    return Statuses()


@pytest.fixture
def web(tmp_path: Path, statuses: Statuses) -> Iterator[WebServer]:
    server = WebServer(tmp_path, on_status=statuses.append, abandon=Event())
    yield server
    server.stop()


def test_a_part_is_ready_when_it_answers_and_stopped_when_it_is_gone(web: WebServer, statuses: Statuses) -> None:
    assert (web.status, web.pid, web.address) == ("stopped", None, "")
    web.start()
    pid = web.pid
    assert pid is not None
    assert web.status == "ready"
    assert web.is_healthy()
    web.start()  # already there
    assert (web.pid, web.status) == (pid, "ready")
    web.stop()
    web.stop()
    assert all_gone([pid])
    assert web.pid is None
    assert statuses.names() == ["starting", "ready", "stopped"]


def test_a_stopped_part_comes_back_under_the_same_address(web: WebServer) -> None:
    web.start()
    address = web.address
    web.stop()
    assert is_free(web.ports["main"])
    web.start()
    assert web.address == address
    assert web.is_healthy()


def test_a_part_that_dies_by_itself_shows_as_failed_and_can_be_started_again(web: WebServer) -> None:
    import os
    import signal

    web.start()
    assert web.pid is not None
    os.kill(web.pid, signal.SIGKILL)
    assert wait_until(lambda: web.status == "failed")
    web.start()
    assert web.is_healthy()


def test_a_server_that_dies_while_starting_is_explained_by_the_end_of_its_log(
    tmp_path: Path, statuses: Statuses
) -> None:
    server = DyingServer(tmp_path, on_status=statuses.append, abandon=Event())
    with pytest.raises(StackError, match=r"web: died with status 3 while starting.*web\.log:\nno disk left"):
        server.start()
    assert statuses.names() == ["starting", "failed"]
    assert "no disk left" in statuses[-1].detail


def test_a_server_that_is_late_is_stopped_and_explained(tmp_path: Path, statuses: Statuses) -> None:
    server = LateServer(tmp_path, on_status=statuses.append, abandon=Event())
    with pytest.raises(StackError, match="web: not healthy after 1 s"):
        server.start()
    assert (server.status, server.pid) == ("failed", None)


def test_a_start_can_be_given_up_from_another_thread(tmp_path: Path, statuses: Statuses) -> None:
    abandon = Event()
    server = LateServer(tmp_path, on_status=statuses.append, abandon=abandon)
    server.start_timeout_s = 600.0  # type: ignore[misc]  # late by far, in this instance
    raised: list[Exception] = []

    def start() -> None:
        try:
            server.start()
        except StackError as error:
            raised.append(error)

    thread = Thread(target=start)
    thread.start()
    assert wait_until(lambda: server.pid is not None)
    abandon.set()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert "given up" in str(raised[0])
    assert server.pid is None


@pytest.mark.waits
@pytest.mark.parametrize("seen_before", [True, False], ids=["seen before the start", "found out by the server"])
def test_a_port_taken_meanwhile_is_replaced_once(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, seen_before: bool
) -> None:
    if not seen_before:
        monkeypatch.setattr(part_module, "is_free", lambda port: True)
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        offers = iter([[taken], free_ports(1)])
        monkeypatch.setattr(part_module, "free_ports", lambda count: next(offers))
        other.listen(0)
        web.start()
        assert web.ports["main"] != taken
        assert web.is_healthy()


def test_a_part_does_not_move_when_its_port_was_taken_while_it_was_stopped(web: WebServer) -> None:
    web.start()
    web.stop()
    port = web.ports["main"]
    with (
        socket.create_server((HOST, port)),
        pytest.raises(StackError, match=f"another process listens on port {port}"),
    ):
        web.start()
    assert web.ports["main"] == port
    web.start()
    assert web.is_healthy()
