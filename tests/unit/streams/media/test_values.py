"""What callers in this very process may write for media, and what of it is brought here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.run.direct_call import fetch_by_entry_point
from handlers.errors import InvalidInput, MediaForbidden, MediaNotFound, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings
from streams import media
from streams.media import MediaFetcher
from streams.settings import S3Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.wav"
    path.write_bytes(b"sound")
    return path


def one(value: Any, *, trust: bool = False, **settings: Any) -> Any:
    data = {"audio": value, "other": "s3://stays/as-it-is"}
    with closing(MediaFetcher(MediaSettings(**settings), S3Settings(), trust_local_paths=trust)) as fetcher:
        return fetcher.resolve(data, ("audio", "absent"))["audio"]


@pytest.mark.parametrize("value", [b"sound", bytearray(b"sound"), memoryview(b"sound"), "data:,sound"])
def test_bytes_and_data_uris_become_media(value: Any) -> None:
    assert one(value).content == b"sound"


@pytest.mark.parametrize("value", [np.zeros(3), Media(b"x", "x"), 7, {"bytes": 1}])
def test_what_is_no_address_stays_as_it_is(value: Any) -> None:
    assert one(value) is value


def test_every_item_of_a_list_is_brought(file: Path) -> None:
    first, second, third = one([b"a", "data:,b", file], trust=True)
    assert [first.content, second.content, third.content] == [b"a", b"b", b"sound"]


@pytest.mark.parametrize("form", [Path, str, lambda path: f"file://{str(path).replace(' ', '%20')}"])
def test_a_trusted_caller_may_name_any_file(file: Path, form: Any) -> None:
    found = one(form(file), trust=True)
    assert found.content == b"sound"


@pytest.fixture
def process_fetchers() -> Iterator[None]:
    """End the fetchers that serve all calls of this process."""
    yield
    for trusts in (False, True):
        media._fetcher(trusts).close()
    media._fetcher.cache_clear()


@pytest.mark.usefixtures("process_fetchers")
def test_only_a_manager_that_trusts_its_callers_reads_paths_outside_the_allowed_roots(file: Path) -> None:
    with pytest.raises(MediaForbidden, match=r"media\.allowed_roots"):
        fetch_by_entry_point({"audio": str(file)}, ["audio"])
    trusted = fetch_by_entry_point({"audio": str(file)}, ["audio"], trust_local_paths=True)
    assert trusted["audio"].content == b"sound"


def test_media_over_the_limit_are_refused_by_size(file: Path) -> None:
    with pytest.raises(MediaTooLarge, match="5 bytes"):
        one(b"sound", max_bytes=4)
    with pytest.raises(MediaTooLarge, match="5 bytes"):
        one(file, trust=True, max_bytes=4)


@pytest.mark.parametrize("value", ["x" * 5000, "a\0b", ""])
def test_a_text_that_can_be_no_path_is_refused_without_repeating_it_whole(value: str) -> None:
    with pytest.raises((InvalidInput, MediaNotFound)) as refusal:
        one(value, trust=True)
    assert len(refusal.value.message) < 500


def test_all_media_of_a_request_share_the_limit_whatever_they_are(file: Path) -> None:
    values = [b"bytes", "data:,uri", file, Media(b"given", "mine")]
    together = len(b"bytesurisoundgiven")
    for order in (values, values[::-1]):
        found = one(order, trust=True, max_bytes=together)
        assert sum(len(media.content) for media in found) == together
        with pytest.raises(MediaTooLarge, match=rf"media\.max_bytes allows {together - 1} a request"):
            one(order, trust=True, max_bytes=together - 1)


def test_a_relative_path_and_one_from_home_are_those_of_this_process(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    for written in (file.name, Path(file.name), f"~/{file.name}"):
        assert one(written, trust=True).content == b"sound"
        with pytest.raises(InvalidInput, match="not a media address"):
            one(written, allowed_roots=(file.parent,))
