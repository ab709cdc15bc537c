from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import (
    InferenceError,
    InvalidInput,
    MediaCorrupt,
    MediaForbidden,
    MediaNotFound,
    MediaTooLarge,
    MediaUnavailable,
)
from handlers.media import Media
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.media.web import WebStore
from streams.settings import S3Settings
from tests.media import fetched
from tests.unit.streams.media.web_server import WebServer, body

SOUND = "data:audio/wav;base64," + base64.b64encode(b"sound").decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(b"from a")
    (tmp_path / "b.wav").write_bytes(b"from b")
    return tmp_path


@pytest.fixture
def fetcher(root: Path) -> Iterator[MediaFetcher]:
    with closing(
        MediaFetcher(MediaSettings(max_bytes=1000, threads=4, allowed_roots=(root,)), S3Settings())
    ) as fetcher:
        yield fetcher


@pytest.fixture
def silent() -> Iterator[str]:
    """Host and port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def web_fetcher(host: str, **media: Any) -> MediaFetcher:
    fetcher = MediaFetcher(MediaSettings(allowed_hosts=(host,), **media), S3Settings())
    fetcher._web = WebStore((host,), schemes={"http"})
    return fetcher


async def under_way(fetcher: MediaFetcher, count: int) -> None:
    async with asyncio.timeout(20):
        while len(fetcher._under_way) < count:
            await asyncio.sleep(0.01)


def test_a_data_uri_is_decoded(fetcher: MediaFetcher) -> None:
    media = fetched(fetcher, SOUND)
    assert (media.content, media.content_type) == (b"sound", "audio/wav")
    assert fetched(fetcher, SOUND.replace("data:", "Data:")).content == b"sound"
    with pytest.raises(MediaCorrupt, match="does not decode"):
        fetched(fetcher, "data:audio/wav;base64,?")
    with pytest.raises(MediaTooLarge, match=r"media\.max_bytes allows 1000"):
        fetched(fetcher, "data:," + "x" * 1001)


def test_paths_and_file_uris_under_a_root_are_read(fetcher: MediaFetcher, root: Path) -> None:
    assert fetched(fetcher, str(root / "a.wav")).content == b"from a"
    assert fetched(fetcher, f"file://{root}/b.wav").content == b"from b"
    with pytest.raises(MediaForbidden):
        fetched(fetcher, "/etc/passwd")


@pytest.mark.parametrize("address", ["gs://bucket/key", "ftp://host/a", "javascript:alert(1)"])
def test_another_scheme_is_refused_with_the_ones_that_work(fetcher: MediaFetcher, address: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not supported; write s3://bucket/key, https://"):
        fetched(fetcher, address)


def test_plain_http_is_refused_even_at_an_allowed_host(server: WebServer) -> None:
    media = MediaSettings(allowed_hosts=(server.host,))
    with closing(MediaFetcher(media, S3Settings())) as fetcher, pytest.raises(MediaForbidden, match="https"):
        fetched(fetcher, server.url("/a"))
    assert server.requests == []


async def afetch(fetcher: MediaFetcher, address: str, **more: Any) -> Any:
    """Return the media at one address, fetched for a request."""
    return (await fetcher.aresolve({"audio": address}, ["audio"], **more))["audio"]


async def test_the_async_twin_gives_the_same(fetcher: MediaFetcher) -> None:
    assert (await afetch(fetcher, SOUND)).content == b"sound"
    with pytest.raises(InvalidInput):
        await afetch(fetcher, "nonsense")


DATA: dict[str, Any] = {"prompt": "s3://not/touched", "frames": 3, "empty": None, "none": []}
FIELDS = ["audio", "images", "frames", "empty", "none", "absent"]


async def _check_resolved(resolved: dict[str, Any], data: dict[str, Any], ready: Media, root: Path) -> None:
    assert resolved["audio"].content == b"sound"
    assert [image.content for image in resolved["images"]] == [b"from a", b"ready", b"from b"]
    assert resolved["images"][1] is ready
    assert resolved["images"][0].source == str(root / "a.wav")
    assert {name: resolved[name] for name in DATA} == DATA
    assert set(resolved) == set(data)
    assert data["audio"] == SOUND
    assert data["images"] == [str(root / "a.wav"), ready, str(root / "b.wav")]


async def test_resolve_replaces_addresses_in_a_copy_and_nothing_else(fetcher: MediaFetcher, root: Path) -> None:
    ready = Media(b"ready", "here")
    data = DATA | {"audio": SOUND, "images": [str(root / "a.wav"), ready, str(root / "b.wav")]}
    await _check_resolved(fetcher.resolve(data, FIELDS), data, ready, root)
    await _check_resolved(await fetcher.aresolve(data, FIELDS), data, ready, root)


async def test_resolve_without_media_returns_an_equal_copy(fetcher: MediaFetcher) -> None:
    for resolved in (fetcher.resolve(DATA, ["audio"]), await fetcher.aresolve(DATA, ["audio"])):
        assert resolved == DATA
        assert resolved is not DATA


async def test_a_failure_names_the_field_and_the_index(fetcher: MediaFetcher, root: Path) -> None:
    lost = str(root / "lost.wav")
    with pytest.raises(MediaNotFound, match=rf"^data\.audio: {lost}"):
        fetcher.resolve({"audio": lost}, FIELDS)
    with pytest.raises(MediaNotFound, match=rf"^data\.images\[1\]: {lost}"):
        await fetcher.aresolve({"images": [str(root / "a.wav"), lost]}, FIELDS)


def test_the_media_of_one_request_share_one_limit(fetcher: MediaFetcher) -> None:
    part = "data:," + "x" * 400
    assert len(fetcher.resolve({"images": [part, part]}, ["images"])["images"]) == 2
    with pytest.raises(MediaTooLarge, match=r"data\.images\[\d\].*the request's other media.*allows 1000"):
        fetcher.resolve({"images": [part, part, part]}, ["images"])


def test_the_first_failure_does_not_wait_for_the_others(silent: str) -> None:
    images = [f"http://{silent}/a", "nonsense"]
    with (
        closing(web_fetcher(silent, deadline_s=200)) as fetcher,
        pytest.raises(InvalidInput, match=r"data\.images\[1\]"),
    ):
        fetcher.resolve({"images": images}, ["images"])


async def test_a_silent_server_ends_at_the_smaller_deadline(silent: str) -> None:
    with closing(web_fetcher(silent, deadline_s=0.3)) as fetcher:
        with pytest.raises(MediaUnavailable, match=r"within 0\.3 s \(media\.deadline_s\): 0 bytes in 1 try"):
            fetched(fetcher, f"http://{silent}/a")
        with pytest.raises(MediaUnavailable, match=r"within 0\.1 s \(what the request's own deadline leaves\)"):
            await afetch(fetcher, f"http://{silent}/a", deadline_s=0.1)
        with pytest.raises(MediaUnavailable, match=r"data\.audio: .*within 0 s"):
            fetcher.resolve({"audio": f"http://{silent}/a"}, ["audio"], deadline_s=-5)


def test_waiting_for_a_thread_counts_against_the_deadline(silent: str) -> None:
    with closing(web_fetcher(silent, deadline_s=0.2, threads=1)) as fetcher:
        addresses = [f"http://{silent}/{number}" for number in range(3)]
        with pytest.raises(MediaUnavailable, match=r"within 0\.2 s"):
            fetcher.resolve({"images": addresses}, ["images"])


def test_bytes_that_trickle_in_end_at_the_deadline_and_free_the_thread(server: WebServer) -> None:
    left = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        try:
            while not left.wait(0.02):
                request.wfile.write(b"x")
        except OSError:
            left.set()

    server.answers |= {"/slow": trickle, "/a": body(b"sound")}
    try:
        with closing(web_fetcher(server.host, deadline_s=0.5, threads=1)) as fetcher:
            with pytest.raises(MediaUnavailable, match=r"[1-9]\d* of 100000 bytes in 1 try"):
                fetched(fetcher, server.url("/slow"))
            assert left.wait(10), "the thread hung up once nobody waited"
            assert fetched(fetcher, server.url("/a")).content == b"sound"
    finally:
        left.set()


async def test_close_ends_what_waits_and_refuses_what_comes(silent: str) -> None:
    fetcher = web_fetcher(silent, deadline_s=200, threads=1)
    waiting = [asyncio.create_task(afetch(fetcher, f"http://{silent}/{number}")) for number in range(3)]
    blocked = asyncio.create_task(asyncio.to_thread(fetched, fetcher, f"http://{silent}/x"))
    await under_way(fetcher, 4)
    fetcher.close()
    fetcher.close()
    for task in [*waiting, blocked]:
        with pytest.raises(MediaUnavailable, match="this worker is stopping"):
            await task
    with pytest.raises(MediaUnavailable, match="this worker is stopping"):
        fetched(fetcher, SOUND)


async def test_a_cancelled_caller_leaves_nothing_behind(silent: str) -> None:
    with closing(web_fetcher(silent, deadline_s=200)) as fetcher:
        task = asyncio.create_task(fetcher.aresolve({"audio": f"http://{silent}/a"}, ["audio"]))
        await under_way(fetcher, 1)
        (one,) = fetcher._under_way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(MediaUnavailable):
            one.check()


@pytest.mark.parametrize("kind", [ZeroDivisionError, BaseException, SystemExit, asyncio.CancelledError])
@pytest.mark.logs_errors("media_fetch_failed")
def test_a_fault_of_ours_is_an_internal_error(
    fetcher: MediaFetcher, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def broken(*_: object) -> None:
        raise kind("a bug")

    monkeypatch.setattr(fetcher, "_get", broken)
    with pytest.raises(InferenceError, match=kind.__name__) as refused:
        fetched(fetcher, SOUND)
    assert refused.value.code == "INTERNAL_ERROR"


def test_many_threads_may_fetch_at_once(server: WebServer) -> None:
    contents = {f"/{number}": bytes([number]) * 1000 for number in range(40)}
    server.answers |= {path: body(content) for path, content in contents.items()}
    with closing(web_fetcher(server.host, threads=8)) as fetcher:
        resolved = fetcher.resolve({"images": [server.url(path) for path in contents]}, ["images"])
    assert [media.content for media in resolved["images"]] == list(contents.values())
