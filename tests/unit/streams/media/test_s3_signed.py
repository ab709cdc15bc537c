"""Signed GETs: as the client of boto3 would send them, and left to it where a bucket needs more."""

from __future__ import annotations

import contextlib
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from boto3.session import Session
from botocore.credentials import Credentials
from pydantic import SecretStr

from handlers.errors import InferenceError, MediaForbidden, MediaNotFound
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.media.addresses import S3Address
from streams.media.fetch import Allowance, Fetch, Interrupted
from streams.media.s3 import S3Store, make_s3_client
from streams.settings import S3Settings
from tests.media import fetched
from tests.unit.streams.media.heard import Heard
from tests.unit.streams.media.socket_server import OK, make_certificate, saying, serving
from tests.unit.streams.media.web_server import Answer, WebServer, body, status

PATH = "/media/clip.wav"
ADDRESS = "s3://media/clip.wav"


def settings_of(server: WebServer, **changes: Any) -> S3Settings:
    keys = {"access_key": "key", "secret_key": SecretStr("SECRET"), **changes}
    return S3Settings(endpoint_url=f"http://{server.host}", **keys)


def contents(settings: S3Settings, *addresses: str) -> list[bytes]:
    with closing(MediaFetcher(MediaSettings(threads=2), settings)) as fetcher:
        return [fetched(fetcher, address).content for address in addresses]


def ask_once(settings: S3Settings) -> None:
    """Send one GET, which is not tried again."""
    fetch = Fetch(ADDRESS, allowance=Allowance(1000), deadline_s=30, deadline_name="media.deadline_s")
    with contextlib.closing(S3Store(settings, connections=1)) as store:
        store.get(S3Address("media", "clip.wav"), fetch)


def content_of(store: S3Store, bucket: str, key: str) -> bytes:
    heard = Heard()
    store.get(S3Address(bucket, key), heard)
    return heard.content()


def region_signed_for(headers: dict[str, str]) -> str:
    scope = headers["Authorization"].partition("Credential=")[2].partition(",")[0]
    return scope.split("/")[2]


def refusal(code: str, region: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>said by a test</Message>{region}</Error>".encode()


@pytest.mark.parametrize(
    ("region", "key", "path"),
    [
        ("us-east-1", "clip.wav", "/media/clip.wav"),
        ("eu-central-1", "été 1+1=2?.wav", "/media/%C3%A9t%C3%A9%201%2B1%3D2%3F.wav"),
        ("nowhere", "a//b/~c%20#.wav", "/media/a//b/~c%2520%23.wav"),
    ],
)
def test_the_url_and_the_signature_are_those_of_the_client(server: WebServer, region: str, key: str, path: str) -> None:
    server.answers[path] = body(b"sound")
    settings = settings_of(server, session_token=SecretStr("TOKEN"), region=region)
    with contextlib.closing(S3Store(settings, connections=1)) as store:
        assert content_of(store, "media", key) == b"sound"
    with contextlib.closing(make_s3_client(settings, connections=1)) as client:
        client.get_object(Bucket="media", Key=key)["Body"].close()

    (our_path, ours), (its_path, its) = server.requests
    assert our_path == its_path == path
    assert region_signed_for(ours) == region_signed_for(its) == region
    assert ours["X-Amz-Security-Token"] == its["X-Amz-Security-Token"] == "TOKEN"
    assert ours["Accept-Encoding"] == its["Accept-Encoding"] == "identity"
    assert ours["User-Agent"] == "inferstream"


def test_a_version_is_asked_for_by_its_id(server: WebServer) -> None:
    server.answers[PATH] = body(b"sound")
    assert contents(settings_of(server), f"{ADDRESS}?versionId=a b&c") == [b"sound"]
    assert server.requests[0][0] == f"{PATH}?versionId=a%20b%26c"


def test_credentials_are_taken_anew_for_each_request(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Role(Credentials):
        """Credentials that somebody renews between two requests."""

        def get_frozen_credentials(self) -> Any:
            used.append(f"key{len(used)}")
            return Credentials(used[-1], "SECRET").get_frozen_credentials()

    used: list[str] = []
    server.answers[PATH] = body(b"sound")
    monkeypatch.setattr(Session, "get_credentials", lambda _: Role("key", "SECRET"))
    with contextlib.closing(S3Store(settings_of(server), connections=1)) as store:
        for _ in range(2):
            assert content_of(store, "media", "clip.wav") == b"sound"
    said = [headers["Authorization"].partition("Credential=")[2] for _, headers in server.requests]
    assert [one.partition("/")[0] for one in said] == used == ["key0", "key1"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        status(400, refusal("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")),
        status(400, refusal("IllegalLocationConstraintException"), X_Amz_Bucket_Region="eu-west-1"),
        status(301, refusal("PermanentRedirect"), X_Amz_Bucket_Region="eu-west-1"),
    ],
)
def test_a_bucket_in_another_region_is_followed_there_and_from_then_on_left_to_the_client(
    server: WebServer, elsewhere: Answer
) -> None:
    def answer(request: Any) -> None:
        is_right = region_signed_for(dict(request.headers)) == "eu-west-1"
        (body(b"sound") if is_right else elsewhere)(request)

    server.answers[PATH] = answer
    assert contents(settings_of(server), ADDRESS, ADDRESS) == [b"sound", b"sound"]
    regions = [region_signed_for(headers) for _, headers in server.requests]
    assert regions == ["us-east-1", "us-east-1", "eu-west-1", "eu-west-1"]


@pytest.mark.parametrize(
    ("code", "name", "error"),
    [(404, "NoSuchKey", MediaNotFound), (400, "ExpiredToken", MediaForbidden), (300, "", MediaForbidden)],
)
def test_a_refusal_that_happens_to_name_a_region_is_final(
    server: WebServer, code: int, name: str, error: type[InferenceError]
) -> None:
    server.answers[PATH] = status(code, refusal(name, "<Region>us-east-1</Region>"))
    with pytest.raises(error):
        contents(settings_of(server), ADDRESS)
    assert len(server.requests) == 1


def test_a_bucket_with_signatures_of_its_own_is_left_to_the_client(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        """Signs as the client of boto3 does for a directory bucket, which takes AWS itself to see."""

        def __init__(self) -> None:
            self.asked: list[dict[str, str]] = []
            self.signatures = 0

        def generate_presigned_url(self, operation: str, Params: dict[str, str]) -> str:
            self.signatures += 1
            scope = "key%2F20260101%2Fus-west-2%2Fs3express%2Faws4_request"
            return f"https://{Params['Bucket']}.s3express.amazonaws.com/k?X-Amz-Credential={scope}"

        def get_object(self, **request: str) -> dict[str, Any]:
            self.asked.append(request)
            return {"ResponseMetadata": {"HTTPHeaders": {"etag": '"1"'}}, "Body": BytesIO(b"sound")}

    client = Client()
    monkeypatch.setattr("streams.media.s3.make_s3_client", lambda *_, **__: client)
    store = S3Store(settings_of(server), connections=1)
    name = "media--usw2-az1--x-s3"
    assert content_of(store, name, "clip.wav") == b"sound"
    heard = Heard()
    monkeypatch.setattr(heard, "condition", lambda: {"Range": "bytes=4-", "If-Match": '"1"'})
    store.get(S3Address(name, "clip.wav", "7"), heard)
    assert heard.headers == {"etag": '"1"'}
    assert client.asked == [
        {"Bucket": name, "Key": "clip.wav"},
        {"Bucket": name, "Key": "clip.wav", "VersionId": "7", "Range": "bytes=4-", "IfMatch": '"1"'},
    ]
    assert client.signatures == 1


def test_any_number_of_buckets_takes_bounded_memory(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.media.s3._MOST_BUCKETS", 3)
    with contextlib.closing(S3Store(settings_of(server), connections=1)) as store:
        for number in range(10):
            name = f"bucket-{number}"
            server.answers[f"/{name}/clip.wav"] = body(name.encode())
            assert content_of(store, name, "clip.wav") == name.encode()
        assert len(store._buckets) <= 3


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_store_is_trusted_by_the_certificates_that_the_environment_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(one, raising=False)
    certificate = make_certificate(tmp_path)
    with serving(saying(OK), certificate) as host:
        settings = S3Settings(endpoint_url=f"https://{host}", access_key="key", secret_key=SecretStr("SECRET"))
        with pytest.raises(Interrupted, match="certificate"):
            ask_once(settings)
        monkeypatch.setenv(name, str(certificate))
        assert contents(settings, ADDRESS) == [b"sound"]


def test_a_store_elsewhere_is_asked_by_way_of_the_proxy_that_the_environment_names(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    store = "http://store.example:9000"
    server.answers[f"{store}{PATH}"] = body(b"by proxy")
    settings = S3Settings(endpoint_url=store, access_key="key", secret_key=SecretStr("SECRET"))
    assert contents(settings, ADDRESS) == [b"by proxy"]
    monkeypatch.setenv("no_proxy", "store.example")
    with pytest.raises(Interrupted, match=r"store\.example"):
        ask_once(settings)
    assert len(server.requests) == 1
