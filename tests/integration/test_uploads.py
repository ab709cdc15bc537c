"""Files that are put on the store are what a worker fetches from the address that is printed."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.local import LocalStack
from handlers.errors import InvalidInput, MediaForbidden, MediaUnavailable
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.media.uploads import upload
from streams.settings import S3Settings
from tests.media import fetched


@pytest.fixture
def s3(local_stack: LocalStack) -> S3Settings:
    return S3Settings.model_validate(local_stack.settings()["s3"])


@pytest.fixture
def fetcher(s3: S3Settings) -> MediaFetcher:
    return MediaFetcher(MediaSettings(), s3)


@pytest.mark.parametrize("name", ["call.flac", "two words ü.wav", "odd?versionId=7", "a%20b#c.png"])
def test_a_file_is_fetched_from_the_address_that_its_upload_gives(
    s3: S3Settings, fetcher: MediaFetcher, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"sound of " + name.encode())
    address = upload(tmp_path / name, s3)
    assert address.startswith("s3://media/uploads/")
    with closing(fetcher):
        assert fetched(fetcher, address).content == b"sound of " + name.encode()
    assert upload(tmp_path / name, s3) == address, "the same file has the same address"


def test_a_file_of_many_parts_comes_whole_and_its_bytes_are_told(
    s3: S3Settings, fetcher: MediaFetcher, tmp_path: Path
) -> None:
    content = uuid.uuid4().bytes * (20 * 1024**2 // 16)
    (tmp_path / "large.wav").write_bytes(content)
    told: list[int] = []
    address = upload(tmp_path / "large.wav", s3, to="s3://media/large/", on_bytes=told.append)
    assert address == "s3://media/large/large.wav"
    assert sum(told) == len(content)
    with closing(fetcher):
        assert fetched(fetcher, address).content == content


def test_what_cannot_be_put_says_why(s3: S3Settings, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"set s3\.uploads to a place"):
        upload(file, s3.model_copy(update={"uploads": None}))
    with pytest.raises(InvalidInput, match=r"missing\.wav cannot be read \(No such file"):
        upload(tmp_path / "missing.wav", s3)
    with pytest.raises(InvalidInput, match=r"missing\.wav cannot be read \(No such file"):
        upload(tmp_path / "missing.wav", s3, to="s3://media/a/")
    with pytest.raises(MediaForbidden, match=r"does not take s3://nobodys/a\.wav"):
        upload(file, s3, to="s3://nobodys/")
    with pytest.raises(MediaForbidden, match=r"s3\.access_key may write there"):
        upload(file, s3.model_copy(update={"secret_key": SecretStr("wrong")}))
    with pytest.raises(MediaUnavailable, match="try again"):
        upload(file, s3.model_copy(update={"endpoint_url": "http://127.0.0.1:1"}))
