"""The media fetcher against a real S3 store, directly and through a connection that misbehaves."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local import LocalStack
from handlers.errors import InferenceError, MediaForbidden, MediaNotFound, MediaTooLarge, MediaUnavailable
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.settings import S3Settings
from tests.integration.toxic_proxy import BlackHole, Pass, Refuse, Reset, Stall, ToxicProxy, Trickle
from tests.media import fetched

PRIVATE = "private-media"
LARGE = random.Random(7).randbytes(8 * 1024 * 1024)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def s3(local_stack: LocalStack) -> Iterator[Any]:
    """The store's admin, who has put in place what the tests read; keys of a test's own are uuids."""
    client = local_stack.s3.client()
    client.create_bucket(Bucket=PRIVATE)
    client.put_object(Bucket=PRIVATE, Key="clip.wav", Body=b"not for everybody")
    client.put_object(Bucket="media", Key="fetcher/large.bin", Body=LARGE)
    yield client
    client.close()


@pytest.fixture
def proxy(local_stack: LocalStack) -> Iterator[ToxicProxy]:
    host, port = local_stack.s3.address.split(":")
    with ToxicProxy(host, int(port)) as proxy:
        yield proxy


Connect = Callable[..., MediaFetcher]


@pytest.fixture
def connect(local_stack: LocalStack, s3: Any) -> Iterator[Connect]:
    """Makes fetchers, by default with the read-only identity; they are closed when the test ends."""
    made: list[MediaFetcher] = []

    def make(
        *, admin: bool = False, port: int | None = None, media: dict[str, Any] | None = None, **s3: Any
    ) -> MediaFetcher:
        who = local_stack.s3.admin if admin else local_stack.s3.user
        settings = S3Settings.model_validate(
            {
                "endpoint_url": local_stack.s3.url if port is None else f"http://127.0.0.1:{port}",
                "access_key": who.access_key,
                "secret_key": who.secret_key,
            }
            | s3
        )
        made.append(MediaFetcher(MediaSettings.model_validate(media or {}), settings))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, "what a test waits for did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "key",
    [
        "clip.wav",
        "a folder/clip 1.wav",
        "Ärger/日本語 😀.wav",
        "what?.wav",
        "take#2.wav",
        "100%.wav",
        "a%20b.wav",
        "a+b&c=d",
    ],
)
def test_an_object_is_fetched_under_its_key_as_it_is_stored(connect: Connect, s3: Any, key: str) -> None:
    s3.put_object(Bucket="media", Key=f"fetcher/{key}", Body=key.encode(), ContentType="audio/wav")
    media = fetched(connect(), f"s3://media/fetcher/{key}")
    assert media.content == key.encode()
    assert media.content_type == "audio/wav"
    assert media.source == f"s3://media/fetcher/{key}"


def test_an_object_stored_compressed_arrives_as_it_was(connect: Connect, s3: Any) -> None:
    s3.put_object(Bucket="media", Key="fetcher/packed.wav", Body=gzip.compress(b"sound" * 100), ContentEncoding="gzip")
    assert fetched(connect(), "s3://media/fetcher/packed.wav").content == b"sound" * 100


def test_a_key_that_reads_like_a_version_is_named_with_an_empty_version_behind_it(connect: Connect, s3: Any) -> None:
    s3.put_object(Bucket="media", Key="fetcher/a?versionId=7", Body=b"odd")
    assert fetched(connect(), "s3://media/fetcher/a?versionId=7?versionId=").content == b"odd"


@pytest.mark.parametrize(
    "address", ["s3://Media/a", "s3://me_dia/a", "s3://ab/a", "s3://a..b/a", f"s3://media/{'a' * 300}"]
)
def test_a_name_that_cannot_be_is_never_blamed_on_how_the_object_is_stored(connect: Connect, address: str) -> None:
    with pytest.raises(InferenceError) as refused:
        fetched(connect(), address)
    assert refused.value.code in {"INVALID_INPUT", "MEDIA_NOT_FOUND", "MEDIA_FORBIDDEN"}
    assert "check how it is stored" not in refused.value.message


def test_a_large_and_an_empty_object_come_whole(connect: Connect, s3: Any) -> None:
    s3.put_object(Bucket="media", Key="fetcher/empty", Body=b"")
    fetcher = connect()
    assert fetched(fetcher, "s3://media/fetcher/large.bin").content == LARGE
    assert fetched(fetcher, "s3://media/fetcher/empty").content == b""


def test_a_version_id_pins_an_older_version(connect: Connect, s3: Any) -> None:
    bucket = f"versioned-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old, new = (s3.put_object(Bucket=bucket, Key="clip.wav", Body=text)["VersionId"] for text in (b"old", b"new"))
    mark = s3.delete_object(Bucket=bucket, Key="clip.wav")["VersionId"]
    fetcher = connect(admin=True)
    assert fetched(fetcher, f"s3://{bucket}/clip.wav?versionId={old}").content == b"old"
    assert fetched(fetcher, f"s3://{bucket}/clip.wav?versionId={new}").content == b"new"
    for gone in (f"s3://{bucket}/clip.wav", f"s3://{bucket}/clip.wav?versionId={mark}"):
        with pytest.raises(MediaNotFound, match=bucket):
            fetched(fetcher, gone)
    absent = old[:-4] + "0000"
    with pytest.raises(MediaNotFound, match="list the versions"):
        fetched(fetcher, f"s3://{bucket}/clip.wav?versionId={absent}")


async def test_a_missing_key_names_the_field_the_bucket_and_the_key(connect: Connect) -> None:
    with pytest.raises(MediaNotFound) as refused:
        await connect().aresolve({"audio": "s3://media/fetcher/absent.wav"}, ["audio"])
    message = refused.value.message
    assert message.startswith("data.audio: s3://media/fetcher/absent.wav: ")
    assert "bucket 'media' has no key 'fetcher/absent.wav'" in message


def test_a_missing_bucket_is_told_from_a_missing_key(connect: Connect) -> None:
    with pytest.raises(MediaNotFound, match=r"has no bucket 'no-such-bucket'; check the name and s3\.endpoint_url"):
        fetched(connect(admin=True), "s3://no-such-bucket/clip.wav")


def test_a_bucket_without_permission_is_forbidden_and_says_what_to_grant(connect: Connect) -> None:
    address = f"s3://{PRIVATE}/clip.wav"
    assert fetched(connect(admin=True), address).content == b"not for everybody"
    with pytest.raises(MediaForbidden, match=rf"grant s3:GetObject on arn:aws:s3:::{PRIVATE}/clip\.wav"):
        fetched(connect(), address)


def test_a_wrong_secret_and_an_unknown_key_are_told_apart(connect: Connect) -> None:
    wrong = SecretStr("the-wrong-secret")
    with pytest.raises(MediaForbidden, match=r"check s3\.secret_key") as refused:
        fetched(connect(secret_key=wrong), "s3://media/fetcher/large.bin")
    assert "the-wrong-secret" not in refused.value.message
    with pytest.raises(MediaForbidden, match=r"check s3\.access_key"):
        fetched(connect(access_key="nobody", secret_key=wrong), "s3://media/fetcher/large.bin")


def test_an_oversize_object_is_refused_before_its_body_has_come(connect: Connect, proxy: ToxicProxy) -> None:
    proxy.mode = Stall(after_bytes=1_000)  # the header passes, and nearly nothing else
    fetcher = connect(port=proxy.port, media={"max_bytes": len(LARGE) - 1})
    with pytest.raises(MediaTooLarge, match=rf"holds {len(LARGE)} bytes; media\.max_bytes allows {len(LARGE) - 1}"):
        fetched(fetcher, "s3://media/fetcher/large.bin")
    assert proxy.accepted == 1


def test_resets_are_resumed_by_range(connect: Connect, proxy: ToxicProxy) -> None:
    proxy.mode = Reset(after_bytes=3_000_000)  # on every connection: without ranges it could never end
    fetcher = connect(port=proxy.port)
    assert fetched(fetcher, "s3://media/fetcher/large.bin").content == LARGE
    assert proxy.accepted >= 3


def test_a_stall_is_resumed_after_the_read_timeout(connect: Connect, proxy: ToxicProxy) -> None:
    proxy.mode = Stall(after_bytes=3_000_000, times=1)
    fetcher = connect(port=proxy.port, read_timeout_s=0.3)
    assert fetched(fetcher, "s3://media/fetcher/large.bin").content == LARGE
    assert proxy.accepted == 2


def test_an_object_that_is_overwritten_between_tries_comes_as_the_new_one(
    connect: Connect, proxy: ToxicProxy, s3: Any
) -> None:
    key = f"fetcher/{uuid.uuid4().hex}"
    s3.put_object(Bucket="media", Key=key, Body=LARGE)
    proxy.mode = Stall(after_bytes=1_000_000)
    fetcher = connect(port=proxy.port)
    with ThreadPoolExecutor(1) as thread:
        fetching = thread.submit(fetched, fetcher, f"s3://media/{key}")
        wait_until(lambda: any(one.received for one in fetcher._under_way))
        new = LARGE[::-1]
        s3.put_object(Bucket="media", Key=key, Body=new)
        proxy.mode = Refuse()
        proxy.mode = Pass()
        assert fetching.result(PATIENCE_S).content == new


@pytest.mark.parametrize("mode", [Stall(after_bytes=1_000), BlackHole(), Trickle(), Reset(after_bytes=0), Refuse()])
async def test_whatever_the_connection_does_the_deadline_holds(
    connect: Connect, proxy: ToxicProxy, mode: Stall | BlackHole | Trickle | Reset | Refuse
) -> None:
    proxy.mode = mode
    fetcher = connect(port=proxy.port, read_timeout_s=5, media={"deadline_s": 1.2})
    async with asyncio.timeout(4):  # well under the read timeout: no socket's patience counts
        with pytest.raises(MediaUnavailable, match=r"data\.audio: .*large\.bin did not arrive within 1\.2 s") as late:
            await fetcher.aresolve({"audio": "s3://media/fetcher/large.bin"}, ["audio"])
    assert late.value.retryable
    assert " tr" in late.value.message


def test_a_store_that_comes_back_within_the_deadline_answers(
    connect: Connect, local_stack: LocalStack, s3: Any
) -> None:
    fetcher = connect()
    store = local_stack.s3
    store.stop()
    try:
        with ThreadPoolExecutor(1) as thread:
            fetching = thread.submit(fetched, fetcher, "s3://media/fetcher/large.bin")
            wait_until(lambda: any(one.tries > 1 for one in fetcher._under_way))
            store.start()
            assert fetching.result(PATIENCE_S).content == LARGE
    finally:
        store.start()


def test_sixteen_fetches_run_side_by_side_on_connections_that_are_kept(
    connect: Connect, proxy: ToxicProxy, s3: Any
) -> None:
    prefix = uuid.uuid4().hex
    contents = [random.Random(number).randbytes(300_000) for number in range(16)]
    for number, content in enumerate(contents):
        s3.put_object(Bucket="media", Key=f"fetcher/{prefix}/{number}", Body=content)
    addresses = [f"s3://media/fetcher/{prefix}/{number}" for number in range(16)]
    fetcher = connect(port=proxy.port, media={"threads": 16})
    for _ in range(5):
        fetched = fetcher.resolve({"images": addresses}, ["images"])["images"]
        assert [media.content for media in fetched] == contents
    assert proxy.accepted <= 16


def test_sixteen_threads_wait_on_the_store_at_once(connect: Connect, proxy: ToxicProxy) -> None:
    proxy.mode = BlackHole()
    fetcher = connect(port=proxy.port, media={"threads": 16}, read_timeout_s=1)
    with ThreadPoolExecutor(16) as threads:
        fetching = [threads.submit(fetched, fetcher, "s3://media/fetcher/large.bin") for _ in range(16)]
        wait_until(lambda: sum(one.tries > 0 for one in fetcher._under_way) == 16 and proxy.accepted >= 16)
        proxy.mode = Pass()
        assert all(one.result(PATIENCE_S).content == LARGE for one in fetching)
