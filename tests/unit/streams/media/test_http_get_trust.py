"""On whose word a server is believed, and by way of which proxy it is asked."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from socket import create_connection, socket

import pytest

from streams.media.http_get import HttpClient, TransferFailed, proxy_for
from tests.unit.streams.media.heard import Heard, content_of
from tests.unit.streams.media.socket_server import OK, make_certificate, request_of, saying, serving

PATIENCE_S = 20.0


@pytest.mark.parametrize(
    "proxy", ["http://user:SEC/RET@127.0.0.1:1", "ftp://user:SECRET@proxy", "http://user:SECRET@x:99999"]
)
def test_a_proxy_that_is_none_is_told_without_its_password(client: HttpClient, proxy: str) -> None:
    with pytest.raises(TransferFailed) as refused:
        client.get("http://media.example/", {}, Heard(), proxy=proxy)
    assert "proxy" in str(refused.value)
    assert "RET" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({"http_proxy": "http://p:1"}, "http://media.example/", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "https://media.example/", None),
        ({"all_proxy": "socks5://p:1"}, "https://media.example/", "socks5://p:1"),
        (
            {"https_proxy": "http://p:1", "no_proxy": "media.example:8443"},
            "https://media.example:8443/",
            None,
        ),
        (
            {"https_proxy": "http://p:1", "no_proxy": "media.example:8443"},
            "https://media.example/",
            "http://p:1",
        ),
        ({"http_proxy": "http://p:1"}, "http://127.0.0.1:9000/", None),
        ({"http_proxy": "http://p:1"}, "http://[::1]:9000/", None),
    ],
)
def test_the_environment_names_the_proxy(
    environment: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


def test_only_a_certificate_that_is_trusted_is_taken(
    client: HttpClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    certificate = make_certificate(tmp_path)
    with serving(saying(OK), certificate) as host:
        with pytest.raises(TransferFailed, match="certificate"):
            client.get(f"https://{host}/", {}, Heard())
        trusting = HttpClient(connect_timeout_s=5, read_timeout_s=5, ca_file=str(certificate))
        assert content_of(trusting, f"https://{host}/") == b"sound"
        with pytest.raises(TransferFailed, match="localhost"):
            trusting.get(f"https://{host.replace('127.0.0.1', 'localhost')}/", {}, Heard())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        by_environment = HttpClient(connect_timeout_s=5, read_timeout_s=5)
        assert content_of(by_environment, f"https://{host}/") == b"sound"
    trusting.close()
    by_environment.close()


def test_a_proxy_passes_the_request_on_and_what_it_says_itself_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def tunnel(connection: socket) -> None:
        """Connect to where the client asks for, and pass bytes both ways."""
        asked.append(request_of(connection).split(b"\r\n")[0])
        host, _, port = asked[-1].split()[1].partition(b":")
        with create_connection((host.decode(), int(port))) as far:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\nContent-Length: 7\r\nVia: a test\r\n\r\n")
            back = threading.Thread(target=passing, args=(far, connection))
            back.start()
            passing(connection, far)
            back.join()

    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # which is not asked
    certificate = make_certificate(tmp_path)
    trusting = HttpClient(connect_timeout_s=5, read_timeout_s=PATIENCE_S, ca_file=str(certificate))
    with serving(saying(OK), certificate) as host, serving(tunnel) as proxy:
        heard = Heard()
        assert trusting.get(f"https://{host}/", {}, heard, proxy=f"http://{proxy}").status == 200
        assert (heard.content(), heard.headers) == (b"sound", {"content-length": "5"})
        assert asked == [f"CONNECT {host} HTTP/1.1".encode()]
        assert content_of(trusting, f"https://{host}/") == b"sound"
        trusting.close()


def passing(source: socket, target: socket) -> None:
    with source, target, suppress(OSError):  # one side has left
        while came := source.recv(4096):
            target.sendall(came)
