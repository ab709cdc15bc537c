from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.errors import MediaNotFound, MediaTooLarge, MediaUnavailable
from streams.media import download as module
from streams.media.download import download
from streams.media.fetch import Allowance, Changed, Fetch, Interrupted, extent

MAX_BYTES = 1000


@dataclass
class ScriptedRemote:
    """An object whose n-th GET breaks off after `cuts[n]` bytes, which no real store can be told to do."""

    content: bytes
    cuts: list[int] = field(default_factory=list)
    etag: str | None = '"1"'
    declares_size: bool = True
    honours_range: bool = True
    chunk_bytes: int = 7
    before: Callable[[int], None] = lambda _: None
    asked: list[dict[str, str]] = field(default_factory=list)
    reads: int = 0
    heeds_if_match: bool = True

    def __call__(self, download: Fetch) -> None:
        number = len(self.asked)
        condition = download.condition()
        self.asked.append(condition)
        self.before(number)
        offset = int(condition.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if offset and self.heeds_if_match and condition["If-Match"] != self.etag:
            raise Changed
        self.send(offset if self.honours_range else 0, number, download)

    def send(self, start: int, number: int, download: Fetch) -> None:
        body = self.content[start:]
        cut = self.cuts[number] if number < len(self.cuts) else len(body) + 1
        headers = {"content-type": "audio/wav"}
        if self.etag is not None:
            headers["etag"] = self.etag
        if self.declares_size:
            headers["content-length"] = str(len(body))
        if start:
            headers["content-range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        download.begin(headers)
        for at in range(0, min(cut, len(body)), self.chunk_bytes):
            self.reads += 1
            download.take(body[at : at + self.chunk_bytes])
        if cut <= len(body):
            raise Interrupted("reset by a test")


def rest_from(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-", "If-Match": '"1"'}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.0)


def a_fetch(*, max_bytes: int = MAX_BYTES, deadline_s: float = 30) -> Fetch:
    return Fetch(
        "s3://media/clip.wav",
        allowance=Allowance(max_bytes),
        deadline_s=deadline_s,
        deadline_name="media.deadline_s",
    )


def test_an_object_comes_whole_with_its_type_and_source() -> None:
    media = download(ScriptedRemote(b"x" * 100), a_fetch())
    assert (media.content, media.content_type, media.source) == (
        b"x" * 100,
        "audio/wav",
        "s3://media/clip.wav",
    )


def test_an_empty_object_is_empty() -> None:
    assert download(ScriptedRemote(b""), a_fetch()).content == b""


def test_a_broken_body_is_resumed_where_it_broke_off_under_the_same_etag() -> None:
    remote = ScriptedRemote(bytes(range(100)), cuts=[14, 7])
    assert download(remote, a_fetch()).content == bytes(range(100))
    assert remote.asked == [{}, rest_from(14), rest_from(21)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    chunk_bytes=st.integers(1, 64),
    etag=st.sampled_from(['"1"', None]),
    honours_range=st.booleans(),
    declares_size=st.booleans(),
)
def test_wherever_it_breaks_the_bytes_are_the_objects(
    content: bytes,
    cuts: list[int],
    chunk_bytes: int,
    etag: str | None,
    honours_range: bool,
    declares_size: bool,
) -> None:
    remote = ScriptedRemote(content, cuts, etag, declares_size, honours_range, chunk_bytes)
    fetch = a_fetch()
    assert download(remote, fetch).content == content
    assert fetch.allowance.left == MAX_BYTES - len(content)


@pytest.mark.parametrize("etag", [None, "", 'W/"1"'])
def test_without_an_etag_of_one_body_it_starts_from_the_beginning(etag: str | None) -> None:
    remote = ScriptedRemote(b"x" * 50, cuts=[14], etag=etag)
    assert download(remote, a_fetch()).content == b"x" * 50
    assert remote.asked == [{}, {}]


def test_an_object_that_changed_once_is_read_again_whole() -> None:
    def overwrite(number: int) -> None:
        if number == 1:
            remote.content, remote.etag = b"new" * 10, '"2"'

    remote = ScriptedRemote(b"old" * 20, cuts=[14], before=overwrite)
    assert download(remote, a_fetch()).content == b"new" * 10
    assert remote.asked == [{}, rest_from(14), {}]


def test_a_server_that_ignores_if_match_is_found_out_by_the_etag_it_sends() -> None:
    class Careless(ScriptedRemote):
        def __call__(self, download: Fetch) -> None:
            if len(self.asked) == 1:
                self.content, self.etag = b"new" * 20, '"2"'
            super().__call__(download)

    remote = Careless(b"old" * 20, cuts=[14], heeds_if_match=False)
    assert download(remote, a_fetch()).content == b"new" * 20


def test_an_object_that_changes_again_and_again_is_unavailable() -> None:
    def overwrite(number: int) -> None:
        remote.etag = f'"{number}"'

    remote = ScriptedRemote(b"x" * 60, cuts=[14] * 9, before=overwrite)
    with pytest.raises(MediaUnavailable, match=r"s3://media/clip\.wav was overwritten twice"):
        download(remote, a_fetch())


def test_a_declared_size_over_the_limit_is_refused_before_the_body_is_read() -> None:
    remote = ScriptedRemote(b"x" * (MAX_BYTES + 1))
    with pytest.raises(MediaTooLarge, match=r"holds 1001 bytes; media\.max_bytes allows 1000"):
        download(remote, a_fetch())
    assert remote.reads == 0


def test_an_undeclared_size_over_the_limit_is_refused_while_reading() -> None:
    remote = ScriptedRemote(b"x" * (MAX_BYTES * 50), declares_size=False, chunk_bytes=100)
    with pytest.raises(MediaTooLarge, match="holds at least 1100 bytes"):
        download(remote, a_fetch())
    assert remote.reads == 11


def test_a_body_shorter_than_declared_is_tried_again() -> None:
    class Short(ScriptedRemote):
        def send(self, start: int, number: int, download: Fetch) -> None:
            if number:
                return super().send(start, number, download)
            download.begin({"content-length": "30", "etag": '"1"'})
            download.take(b"x" * 10)
            return None

    remote = Short(b"x" * 30)
    assert download(remote, a_fetch()).content == b"x" * 30
    assert remote.asked == [{}, rest_from(10)]


def test_what_no_retry_can_help_is_not_tried_again() -> None:
    def missing(number: int) -> None:
        raise MediaNotFound("gone")

    remote = ScriptedRemote(b"x", before=missing)
    with pytest.raises(MediaNotFound):
        download(remote, a_fetch())
    assert len(remote.asked) == 1


def test_the_deadline_ends_the_tries_and_tells_how_far_it_got() -> None:
    def away(number: int) -> None:
        if number:
            raise Interrupted("503 SlowDown from a test")

    remote = ScriptedRemote(b"x" * 60, cuts=[14], before=away)
    with pytest.raises(MediaUnavailable) as late:
        download(remote, a_fetch(deadline_s=0.2))
    assert late.value.retryable
    for part in (
        "s3://media/clip.wav",
        "0.2 s (media.deadline_s)",
        "14 of 60 bytes",
        "503 SlowDown from a test",
    ):
        assert part in late.value.message


def test_a_stopped_fetch_reads_no_further() -> None:
    fetch = a_fetch()
    remote = ScriptedRemote(b"x" * 60, before=lambda _: fetch.fail(fetch.late()))
    with pytest.raises(MediaUnavailable):
        download(remote, fetch)
    assert remote.reads == 1


def test_pauses_are_random_and_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.1)
    longest = [max(module._pause_s(fruitless) for _ in range(300)) for fruitless in range(8)]
    assert longest[0] <= 0.1 < longest[2] <= 0.4 < longest[7] <= 2.0
    assert len({module._pause_s(3) for _ in range(20)}) > 1


def test_a_content_range_gives_the_start_and_the_whole_size() -> None:
    assert extent("bytes 5-9/10", 5) == (5, 10)
    assert extent(None, 10) == (0, 10)
    for unreadable in ("bytes 5-9/*", "bytes */10", "nonsense"):
        with pytest.raises(Interrupted):
            extent(unreadable, 5)
