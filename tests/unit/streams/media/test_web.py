from __future__ import annotations

import gzip
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler

import pytest

from handlers.errors import (
    InferenceError,
    InvalidInput,
    MediaForbidden,
    MediaNotFound,
    MediaTooLarge,
)
from handlers.media import Media
from streams.media.addresses import shown
from streams.media.download import download
from streams.media.fetch import Allowance, Fetch
from streams.media.web import WebStore
from tests.unit.streams.media.web_server import WebServer, body, status


@pytest.fixture
def store(server: WebServer) -> Iterator[WebStore]:
    store = WebStore([server.host], schemes={"http"})
    yield store
    store.close()


def fetch(store: WebStore, address: str) -> Media:
    one = Fetch(shown(address), allowance=Allowance(100_000), deadline_s=30, deadline_name="media.deadline_s")
    return download(partial(store.get, store.url(address, one.source)), one)


def test_media_comes_from_an_allowed_host(store: WebStore, server: WebServer) -> None:
    server.answers["/a.wav"] = body(b"sound", Content_Type="audio/wav")
    media = fetch(store, server.url("/a.wav?token=SECRET"))
    assert (media.content, media.content_type) == (b"sound", "audio/wav")
    assert "SECRET" not in media.source
    assert server.requests[0][0] == "/a.wav?token=SECRET"


@pytest.mark.parametrize(
    "address",
    [
        "https://elsewhere/a.wav",
        "https://media.example.evil.net/a.wav",
        "https://media.example:444/a.wav",
        "http://media.example/a.wav",
        "https://media.example./a.wav",
        "https://127.0.0.1/a.wav",
        "https://[::1]/a.wav",
    ],
)
def test_other_hosts_ports_and_schemes_are_refused(address: str) -> None:
    store = WebStore(["media.example"], schemes={"https"})
    with pytest.raises(MediaForbidden, match=r"media\.allowed_hosts"):
        store.url(address, shown(address))
    store.close()


@pytest.mark.parametrize("address", ["https://Media.Example/a", "https://media.example:443/a"])
def test_a_host_is_matched_in_any_case_with_its_own_port(address: str) -> None:
    store = WebStore(["MEDIA.example"], schemes={"https"})
    store.url(address, address)
    store.close()


@pytest.mark.parametrize("address", ["https://user:pw@media.example/a", "https:///a", "https://host:port/a", "https:a"])
def test_an_address_without_a_host_or_with_a_user_is_invalid(address: str) -> None:
    store = WebStore(["media.example"], schemes={"https"})
    with pytest.raises(InvalidInput, match="https://host/path") as refused:
        store.url(address, shown(address))
    assert "pw" not in refused.value.message
    store.close()


def test_a_redirect_to_an_allowed_host_is_followed(store: WebStore, server: WebServer) -> None:
    server.answers |= {"/old": status(302, Location="/new"), "/new": body(b"sound")}
    assert fetch(store, server.url("/old")).content == b"sound"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:1/secret?token=SECRET",
        "//elsewhere/?token=SECRET",
        "//user:SECRET@elsewhere/",
        "https://elsewhere/",
        "file:///etc/passwd",
        "http://[SECRET/",
    ],
)
def test_a_redirect_to_anywhere_else_is_refused(store: WebStore, server: WebServer, target: str) -> None:
    server.answers["/old"] = status(302, Location=target)
    with pytest.raises(InferenceError) as refused:
        fetch(store, server.url("/old"))
    assert isinstance(refused.value, MediaForbidden | InvalidInput)
    assert "which redirects to" in refused.value.message
    assert "SECRET" not in refused.value.message


def test_a_redirect_may_be_written_in_any_alphabet(store: WebStore, server: WebServer) -> None:
    # The server of the tests writes headers in latin-1, so these are the bytes of UTF-8.
    server.answers |= {"/old": status(302, Location="/\xc3\xa9"), "/%C3%A9": body(b"sound")}
    assert fetch(store, server.url("/old")).content == b"sound"


def test_redirects_in_a_circle_end(store: WebStore, server: WebServer) -> None:
    server.answers["/round"] = status(302, Location="/round")
    with pytest.raises(MediaForbidden, match="redirects more than 3 times"):
        fetch(store, server.url("/round"))
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (404, MediaNotFound),
        (410, MediaNotFound),
        (401, MediaForbidden),
        (403, MediaForbidden),
        (400, MediaForbidden),
    ],
)
def test_a_refusal_is_final_and_shows_its_status(
    store: WebStore, server: WebServer, code: int, error: type[InferenceError]
) -> None:
    server.answers["/a"] = status(code)
    with pytest.raises(error, match=rf"{server.url('/a')}.*answers {code}"):
        fetch(store, server.url("/a"))
    assert len(server.requests) == 1


def test_a_busy_host_is_asked_again(store: WebStore, server: WebServer) -> None:
    def busy_once(request: BaseHTTPRequestHandler) -> None:
        (status(503) if len(server.requests) == 1 else body(b"sound"))(request)

    server.answers["/a"] = busy_once
    assert fetch(store, server.url("/a")).content == b"sound"


def test_a_body_cut_short_is_resumed_by_range_and_if_match(store: WebStore, server: WebServer) -> None:
    content = bytes(range(256)) * 40

    def cut_once(request: BaseHTTPRequestHandler) -> None:
        if "Range" not in request.headers:
            body(content[:5000], Content_Length=str(len(content)), ETag='"1"')(request)
            return
        start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status(206, content[start:], Content_Range=span, ETag='"1"')(request)

    server.answers["/a"] = cut_once
    assert fetch(store, server.url("/a")).content == content
    assert server.requests[1][1]["Range"] == "bytes=5000-"
    assert server.requests[1][1]["If-Match"] == '"1"'


def test_a_weak_etag_is_not_resumed(store: WebStore, server: WebServer) -> None:
    def cut_once(request: BaseHTTPRequestHandler) -> None:
        whole = len(server.requests) > 1
        body(b"x" * (100 if whole else 50), Content_Length="100", ETag='W/"1"')(request)

    server.answers["/a"] = cut_once
    assert fetch(store, server.url("/a")).content == b"x" * 100
    assert "Range" not in server.requests[1][1]


def test_a_declared_size_is_refused_though_no_body_byte_was_sent(store: WebStore, server: WebServer) -> None:
    server.answers["/a"] = status(200, Content_Length=str(1 << 30))
    with pytest.raises(MediaTooLarge, match="holds 1073741824 bytes"):
        fetch(store, server.url("/a"))


def test_a_compressed_answer_is_undone(store: WebStore, server: WebServer) -> None:
    server.answers["/a"] = body(gzip.compress(b"sound"), Content_Encoding="gzip")
    assert fetch(store, server.url("/a")).content == b"sound"


def test_a_host_is_asked_by_way_of_the_proxy_that_the_environment_names(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    monkeypatch.setenv("no_proxy", "")
    server.answers["http://media.example/a.wav"] = body(b"by proxy")
    store = WebStore(["media.example"], schemes={"http"})
    assert fetch(store, "http://media.example/a.wav").content == b"by proxy"
    store.close()
