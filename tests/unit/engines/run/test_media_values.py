"""Media of every kind a caller may write, and which of them this process brings here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.run.media_values import MediaValues
from handlers.errors import InvalidInput, MediaCorrupt, MediaForbidden, MediaNotFound, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.wav"
    path.write_bytes(b"sound")
    return path


def one(value: Any, *, trust: bool = False, fetch: Any = None, **settings: Any) -> Any:
    values = MediaValues(MediaSettings(**settings), fetch=fetch, trust_local_paths=trust)
    return values.resolve({"audio": value, "other": "s3://stays/as-it-is"}, ("audio", "absent"))["audio"]


@pytest.mark.parametrize("value", [b"sound", bytearray(b"sound"), memoryview(b"sound"), "data:,sound"])
def test_bytes_and_data_uris_become_media(value: Any) -> None:
    assert one(value).content == b"sound"


@pytest.mark.parametrize("value", [np.zeros(3), Media(b"x", "x"), 7, {"bytes": 1}])
def test_what_is_no_address_stays_as_it_is(value: Any) -> None:
    assert one(value) is value


def test_fields_without_media_and_the_callers_own_dict_are_left_alone() -> None:
    data = {"audio": b"sound", "text": "s3://bucket/key", "images": None}
    resolved = MediaValues(MediaSettings()).resolve(data, ("audio", "images"))
    assert resolved["text"] == "s3://bucket/key"
    assert resolved["images"] is None
    assert data["audio"] == b"sound"


def test_every_item_of_a_list_is_brought(file: Path) -> None:
    first, second, third = one([b"a", "data:,b", file], trust=True)
    assert [first.content, second.content, third.content] == [b"a", b"b", b"sound"]


def test_an_item_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(MediaNotFound, match=r"data\.audio\[1\]"):
        one([b"a", "/no/such/file"], trust=True)


@pytest.mark.parametrize("form", [Path, str, lambda path: f"file://{str(path).replace(' ', '%20')}"])
def test_a_trusted_caller_may_name_any_file(file: Path, form: Any) -> None:
    media = one(form(file), trust=True)
    assert media.content == b"sound"


def test_others_may_name_files_under_the_allowed_roots_only(file: Path) -> None:
    assert one(str(file), allowed_roots=(file.parent,)).content == b"sound"
    with pytest.raises(MediaForbidden, match=r"media\.allowed_roots \(none\)"):
        one(str(file))
    with pytest.raises(MediaForbidden):
        one(str(file.parent / "sub" / ".." / ".." / "x"), allowed_roots=(file.parent,))


def test_what_exists_outside_the_roots_is_not_told(tmp_path: Path, file: Path) -> None:
    (tmp_path / "root").mkdir()
    messages = set()
    for path in (file, tmp_path / "a file.mp3"):
        with pytest.raises(MediaForbidden) as refusal:
            one(str(path), allowed_roots=(tmp_path / "root",))
        messages.add(refusal.value.message.replace(str(path), ""))
    assert len(messages) == 1


def test_a_link_out_of_the_roots_is_not_followed(tmp_path: Path, file: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(file)
    with pytest.raises(MediaForbidden):
        one(str(tmp_path / "root" / "link"), allowed_roots=(tmp_path / "root",))


@pytest.mark.parametrize("address", ["s3://bucket/key", "https://host/a.wav"])
def test_other_addresses_go_through_the_fetcher(address: str) -> None:
    assert one(address, fetch=lambda asked: Media(asked.encode(), asked)).content == address.encode()


@pytest.mark.parametrize("address", ["s3://bucket/key", "https://host/a.wav"])
def test_without_a_fetcher_an_address_is_refused_with_the_way_out(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"data\.audio is '.*pass bytes, a path or a data: URI"):
        one(address)


def test_media_over_the_limit_are_refused_by_size(file: Path) -> None:
    with pytest.raises(MediaTooLarge, match="5 bytes"):
        one(b"sound", max_bytes=4)
    with pytest.raises(MediaTooLarge, match="5 bytes"):
        one(file, trust=True, max_bytes=4)


def test_all_media_of_a_request_share_the_limit_whatever_they_are(file: Path) -> None:
    fetched: list[str] = []

    def fetch(address: str) -> Media:
        fetched.append(address)
        return Media(b"fetched", address)

    values = [b"bytes", "data:,uri", file, "s3://bucket/key", Media(b"given", "mine")]
    together = len(b"bytesurisoundfetchedgiven")
    for order in (values, values[::-1]):
        found = one(order, trust=True, fetch=fetch, max_bytes=together)
        assert sum(len(media.content) for media in found) == together
        with pytest.raises(MediaTooLarge) as caught:
            one(order, trust=True, fetch=fetch, max_bytes=together - 1)
        assert caught.value.message.startswith("data.audio[4] ")
        assert f" beside {together - 5} bytes of the request's other media; " in caught.value.message
        assert f"media.max_bytes allows {together - 1} a request" in caught.value.message


def test_media_in_different_fields_share_the_limit_too() -> None:
    values = MediaValues(MediaSettings(max_bytes=9))
    with pytest.raises(MediaTooLarge, match=r"data\.images\[0\] has 5 bytes beside 5 bytes"):
        values.resolve({"audio": b"sound", "images": [b"image"]}, ("audio", "images"))
    assert values.resolve({"audio": b"sound"}, ("audio",)), "each request has the whole limit"


@pytest.mark.parametrize("value", ["x" * 5000, "a\0b", ""])
def test_a_text_that_can_be_no_path_is_refused_without_repeating_it_whole(value: str) -> None:
    with pytest.raises((InvalidInput, MediaNotFound)) as refusal:
        one(value, trust=True)
    assert len(refusal.value.message) < 400


def test_what_cannot_be_fetched_or_decoded_is_named_by_its_place() -> None:
    def refuse(address: str) -> Media:
        raise MediaNotFound(f"{address} is not there")

    with pytest.raises(MediaNotFound, match=r"^data\.audio\[1\]: s3://bucket/key is not there"):
        one([b"sound", "s3://bucket/key"], fetch=refuse)
    with pytest.raises(MediaCorrupt, match=r"^data\.audio: data:;base64,"):
        one("data:;base64,@")
