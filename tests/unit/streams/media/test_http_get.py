"""GETs by libcurl: what of an answer is heard, how one ends, and what becomes of the connections."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from socket import socket

import pytest

from streams.media.http_get import HttpClient, TransferFailed
from tests.unit.streams.media.heard import Heard, content_of
from tests.unit.streams.media.socket_server import OK, request_of, saying, serving

PATIENCE_S = 20.0


def test_a_success_is_heard_and_its_connection_serves_the_next(client: HttpClient) -> None:
    connections: list[list[bytes]] = []

    def serve(connection: socket) -> None:
        requests: list[bytes] = []
        connections.append(requests)
        while request := request_of(connection):
            requests.append(request)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "1"\r\nX-Odd:  \xe9 \r\n\r\nsound')

    with serving(serve) as host:
        for _ in range(3):
            heard = Heard()
            answer = client.get(f"http://{host}/a/../b%20c?d", {"Range": "bytes=0-"}, heard)
            assert (answer.status, heard.content(), answer.body) == (200, b"sound", b"")
            assert heard.headers == {"content-length": "5", "etag": '"1"', "x-odd": "é"}
    assert len(connections) == 1
    assert len(connections[0]) == 3
    assert connections[0][0].startswith(b"GET /a/../b%20c?d HTTP/1.1\r\n")
    assert b"Range: bytes=0-\r\n" in connections[0][0]


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(client: HttpClient) -> None:
    with serving(saying(OK)) as host:
        assert [content_of(client, f"http://{host}/") for _ in range(5)] == [b"sound"] * 5


def test_early_answers_and_trailers_are_no_part_of_the_answer(client: HttpClient) -> None:
    chunked = (
        b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n"
        b"3\r\nsou\r\n2\r\nnd\r\n0\r\nX-Late: 1\r\n\r\n"
    )
    with serving(saying(chunked)) as host:
        heard = Heard()
        answer = client.get(f"http://{host}/", {}, heard)
    assert heard.content() == b"sound"
    assert heard.headers == answer.headers == {"transfer-encoding": "chunked", "trailer": "X-Late"}


@pytest.mark.parametrize("status", [b"204 No Content", b"301 Moved", b"404 Not Found", b"503 Busy"])
def test_what_is_no_success_is_returned_and_the_receiver_hears_nothing(client: HttpClient, status: bytes) -> None:
    length = 0 if status.startswith(b"204") else 100_000
    answer = b"HTTP/1.1 %s\r\nLocation: /\r\nContent-Length: %d\r\n\r\n%s" % (status, length, b"x" * length)
    with serving(saying(answer)) as host:
        heard = Heard()
        refusal = client.get(f"http://{host}/", {}, heard)
    assert (refusal.status, refusal.is_success) == (int(status[:3]), False)
    assert refusal.headers["location"] == "/"
    assert refusal.body == b"x" * min(length, 64 * 1024)
    assert heard.headers is None
    assert not heard.content()


def test_a_refusal_whose_body_breaks_off_is_one_all_the_same(client: HttpClient) -> None:
    with serving(saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 900\r\n\r\n<Error>")) as host:
        answer = client.get(f"http://{host}/", {}, Heard())
    assert (answer.status, answer.body) == (403, b"<Error>")


def test_a_refusal_is_not_waited_for_where_nobody_reads_it(client: HttpClient) -> None:
    may_end = threading.Event()

    def serve(connection: socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 900\r\n\r\n<ht")
        assert may_end.wait(PATIENCE_S)

    with serving(serve) as host:
        answer = client.get(f"http://{host}/", {}, Heard(), reads_refusals=False)
        assert (answer.status, answer.headers["location"]) == (302, "/")
        may_end.set()


def test_a_header_that_looks_like_a_status_is_none(client: HttpClient) -> None:
    odd = b"HTTP/1.1 200 OK\r\nHTTP/x: y\r\nHTTP/1.1 500 oops: b\r\nContent-Length: 5\r\n\r\nsound"
    with serving(saying(odd)) as host:
        assert content_of(client, f"http://{host}/") == b"sound"


def test_a_header_goes_as_it_came_unless_it_would_end_early(client: HttpClient) -> None:
    asked: list[bytes] = []

    def serve(connection: socket) -> None:
        asked.append(request_of(connection))
        connection.sendall(OK)

    with serving(serve) as host:
        for value in ("SECRET\r\nX-Evil: 1", "SECRET\0", "SECRET\u20ac"):
            with pytest.raises(TransferFailed, match="the header X-Token would hold") as refused:
                client.get(f"http://{host}/", {"X-Token": value}, Heard())
            assert "SECRET" not in str(refused.value)
        assert client.get(f"http://{host}/", {"If-Match": '"a\xe9"'}, Heard()).is_success
    assert len(asked) == 1
    assert b'If-Match: "a\xe9"\r\n' in asked[0]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nso"])
def test_a_server_that_falls_silent_is_left_after_the_read_timeout(said: bytes) -> None:
    is_left = threading.Event()

    def serve(connection: socket) -> None:
        request_of(connection)
        connection.sendall(said)
        connection.settimeout(PATIENCE_S)
        assert connection.recv(1) == b""
        is_left.set()

    client = HttpClient(connect_timeout_s=PATIENCE_S, read_timeout_s=0.1)
    with serving(serve) as host:
        with pytest.raises(TransferFailed, match=r"not a byte came for 0\.1 s"):
            client.get(f"http://{host}/", {}, Heard())
        assert is_left.wait(PATIENCE_S)
    client.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "empty reply|Recv failure"),
        (OK[:-2], "2 bytes (remaining|missing)"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsou",
            "outstanding read data|transfer closed",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "HTTP/0.9"),
    ],
)
def test_an_answer_that_is_none_or_not_all_of_it_tells_why(client: HttpClient, answer: bytes, why: str) -> None:
    with serving(saying(answer)) as host, pytest.raises(TransferFailed, match=f"(?i){why}"):
        client.get(f"http://{host}/", {}, Heard())


def test_nobody_there_tells_where(client: HttpClient) -> None:
    with serving(saying(OK)) as host:
        pass
    with pytest.raises(TransferFailed, match=host.partition(":")[2]):
        client.get(f"http://{host}/", {}, Heard())


@pytest.mark.parametrize("when", ["begin", "take", "check"])
def test_what_the_receiver_raises_ends_the_transfer_and_harms_no_other(
    client: HttpClient, when: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise KeyError(f"said in {when}")

    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nsound"
    with serving(lambda connection: connection.sendall(endless if b"no" in request_of(connection) else OK)) as host:
        for _ in range(3):
            unwilling = Heard()
            setattr(unwilling, when, refuse)
            with pytest.raises(KeyError, match=f"said in {when}"):
                client.get(f"http://{host}/no", {}, unwilling)
            assert content_of(client, f"http://{host}/") == b"sound"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("answer", [OK, OK[:-1]])
def test_nothing_is_kept_of_a_transfer(client: HttpClient, answer: bytes) -> None:
    class Unwilling(Heard):
        def take(self, chunk: bytes) -> None:
            raise KeyError

    gc.disable()
    try:
        with serving(saying(answer)) as host:
            for kind in (Heard, Unwilling):
                heard = kind()
                with suppress(KeyError, TransferFailed):
                    client.get(f"http://{host}/", {}, heard)
                gone = weakref.ref(heard)
                del heard
                assert gone() is None
    finally:
        gc.enable()


def test_threads_do_not_hear_each_others_answers(client: HttpClient) -> None:
    def serve(connection: socket) -> None:
        while request := request_of(connection):
            path = request.split()[1]
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))

    with serving(serve) as host, ThreadPoolExecutor(16) as threads:
        paths = [f"/{number}" for number in range(400)]
        contents = threads.map(lambda path: content_of(client, f"http://{host}{path}"), paths)
        assert [content.decode() for content in contents] == paths


def test_close_leaves_no_connection_neither_idle_nor_one_in_use() -> None:
    is_under_way, may_answer, ended = threading.Event(), threading.Event(), threading.Semaphore(0)

    def serve(connection: socket) -> None:
        while request := request_of(connection):
            if b"slow" in request:
                is_under_way.set()
                may_answer.wait(PATIENCE_S)
            connection.sendall(OK)
        ended.release()

    client = HttpClient(connect_timeout_s=5, read_timeout_s=PATIENCE_S)
    with serving(serve) as host, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(content_of, client, f"http://{host}/slow")
        assert is_under_way.wait(PATIENCE_S)
        assert content_of(client, f"http://{host}/") == b"sound"
        client.close()
        assert ended.acquire(timeout=PATIENCE_S)
        may_answer.set()
        assert slow.result(PATIENCE_S) == b"sound"
        assert ended.acquire(timeout=PATIENCE_S)
    client.close()
