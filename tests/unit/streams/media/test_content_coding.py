"""Objects stored with a Content-Encoding: undone within the limits, or refused with that reason."""

from __future__ import annotations

import gzip
import zlib

import pytest

from handlers.errors import MediaCorrupt, MediaTooLarge, MediaUnavailable
from streams.media.download import decoded
from streams.media.fetch import Allowance, Fetch

SOUND = b"RIFF" + bytes(range(256)) * 40


def fetch(max_bytes: int = 1_000_000, deadline_s: float = 60.0) -> Fetch:
    return Fetch("s3://media/a.wav", allowance=Allowance(max_bytes), deadline_s=deadline_s, deadline_name="a test")


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", gzip.compress(SOUND)),
        ("GZIP", gzip.compress(SOUND)),
        ("x-gzip", gzip.compress(SOUND)),
        ("deflate", zlib.compress(SOUND)),
        ("gzip", gzip.compress(SOUND[:1000]) + gzip.compress(SOUND[1000:])),
        ("gzip, gzip", gzip.compress(gzip.compress(SOUND))),
        ("aws-chunked, gzip", gzip.compress(SOUND)),
        ("identity", SOUND),
        ("aws-chunked", SOUND),
        ("utf-8", SOUND),
        ("", SOUND),
    ],
)
def test_what_is_stored_in_a_coding_arrives_without_it(coding: str, content: bytes) -> None:
    assert decoded(content, coding, fetch()) == SOUND


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
def test_a_coding_that_is_not_undone_is_refused_by_its_name(coding: str) -> None:
    with pytest.raises(MediaCorrupt, match=r"is stored with Content-Encoding (br|zstd); gzip and deflate are"):
        decoded(b"anything", coding, fetch())


def test_bytes_that_are_not_in_their_coding_are_refused() -> None:
    with pytest.raises(MediaCorrupt, match="its bytes are not gzip"):
        decoded(SOUND, "gzip", fetch())


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_cut_coding_is_refused(cut: int) -> None:
    with pytest.raises(MediaCorrupt, match="ends in the middle of its gzip"):
        decoded(gzip.compress(SOUND)[:-cut], "gzip", fetch())


def test_a_bomb_stops_at_the_bytes_that_are_allowed() -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    with pytest.raises(MediaTooLarge, match=r"media\.max_bytes allows 1000000 a request"):
        decoded(bomb, "gzip", fetch(1_000_000))


def test_a_bomb_within_a_bomb_stops_too() -> None:
    bomb = gzip.compress(gzip.compress(bytes(50_000_000), 9) * 20, 9)
    with pytest.raises(MediaTooLarge):
        decoded(bomb, "gzip, gzip", fetch(1_000_000))


def test_what_is_unpacked_counts_as_held() -> None:
    one = fetch(1_000_000)
    packed = gzip.compress(SOUND)
    assert one.allowance.take(len(packed))
    decoded(packed, "gzip", one)
    assert one.allowance.left == 1_000_000 - len(SOUND)


def test_unpacking_ends_with_the_deadline() -> None:
    with pytest.raises(MediaUnavailable):
        decoded(gzip.compress(SOUND), "gzip", fetch(deadline_s=0.0))
