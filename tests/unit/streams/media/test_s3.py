"""What a store answers that the real one in the integration tests cannot be made to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import SecretStr

from handlers.errors import (
    InferenceError,
    InvalidInput,
    MediaForbidden,
    MediaNotFound,
    MediaTooLarge,
    MediaUnavailable,
)
from handlers.settings import MediaSettings
from streams.media import MediaFetcher
from streams.settings import S3Settings
from tests.media import fetched
from tests.unit.streams.media.web_server import Answer, WebServer, body, status

PATH = "/media/clip.wav"
ADDRESS = "s3://media/clip.wav"


@pytest.fixture
def fetcher(server: WebServer) -> Iterator[MediaFetcher]:
    s3 = S3Settings(endpoint_url=f"http://{server.host}", access_key="key", secret_key=SecretStr("SECRET"))
    with closing(MediaFetcher(MediaSettings(max_bytes=1000, threads=2), s3)) as fetcher:
        yield fetcher


def refusal(code: int, name: str) -> Answer:
    return status(code, f"<Error><Code>{name}</Code><Message>said by a test</Message></Error>".encode())


def in_turn(server: WebServer, *answers: Answer) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        answers[min(len(server.requests), len(answers)) - 1](request)

    return answer


@pytest.mark.parametrize(
    ("code", "name", "error", "cure"),
    [
        (403, "AccessDenied", MediaForbidden, r"grant s3:GetObject on arn:aws:s3:::media/clip\.wav"),
        (403, "RequestTimeTooSkewed", MediaForbidden, "clock"),
        (403, "InvalidObjectState", MediaForbidden, "restore it"),
        (403, "ExpiredToken", MediaForbidden, "renew"),
        (400, "ExpiredToken", MediaForbidden, "renew"),
        (400, "AuthorizationHeaderMalformed", MediaForbidden, r"s3\.region"),
        (405, "MethodNotAllowed", MediaNotFound, "marks a deletion"),
        (404, "NoSuchVersion", MediaNotFound, "no such version"),
        (404, "NotFound", MediaNotFound, r"s3\.endpoint_url"),
        (403, "InvalidTokenId", MediaForbidden, r"renew s3\.session_token"),
        (400, "InvalidArgument", InvalidInput, "the version id: InvalidArgument: said by a test"),
        (400, "InvalidBucketName", InvalidInput, "InvalidBucketName: said by a test"),
        (400, "XMinioInvalidObjectName", InvalidInput, "XMinioInvalidObjectName: said by a test"),
        (400, "KeyTooLongError", InvalidInput, "KeyTooLongError: said by a test"),
        (400, "InvalidURI", InvalidInput, "InvalidURI: said by a test"),
        (400, "InvalidRequest", MediaForbidden, "400 InvalidRequest"),
    ],
)
def test_a_final_refusal_names_the_address_and_the_cure(
    fetcher: MediaFetcher, server: WebServer, code: int, name: str, error: type[InferenceError], cure: str
) -> None:
    server.answers[PATH] = refusal(code, name)
    with pytest.raises(error, match=cure) as refused:
        fetched(fetcher, ADDRESS)
    assert refused.value.message.startswith(f"data.media: {ADDRESS}: ")
    assert "SECRET" not in refused.value.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "name"),
    [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (400, "RequestTimeout"), (502, "")],
)
def test_a_busy_or_failing_store_is_asked_again(fetcher: MediaFetcher, server: WebServer, code: int, name: str) -> None:
    server.answers[PATH] = in_turn(server, refusal(code, name), body(b"sound"))
    assert fetched(fetcher, ADDRESS).content == b"sound"
    assert len(server.requests) == 2


@pytest.mark.waits
def test_a_store_that_keeps_failing_is_unavailable_and_the_last_answer_is_shown(
    fetcher: MediaFetcher, server: WebServer
) -> None:
    server.answers[PATH] = refusal(503, "SlowDown")
    with pytest.raises(MediaUnavailable, match=rf"the last fault: 503 SlowDown from http://{server.host}"):
        fetched(fetcher, ADDRESS, deadline_s=5.0)


def test_an_answer_that_is_no_xml_is_tried_again(fetcher: MediaFetcher, server: WebServer) -> None:
    page = status(502, b"<html>Oops &")
    server.answers[PATH] = in_turn(server, page, body(b"sound"))
    assert fetched(fetcher, ADDRESS).content == b"sound"


def test_a_gigabyte_is_refused_by_its_header_without_one_byte_of_its_body(
    fetcher: MediaFetcher, server: WebServer
) -> None:
    server.answers[PATH] = status(200, Content_Length=str(1 << 30))
    with pytest.raises(MediaTooLarge, match=r"holds 1073741824 bytes; media\.max_bytes allows 1000"):
        fetched(fetcher, ADDRESS)
    assert len(server.requests) == 1


def test_a_body_cut_short_is_resumed_under_the_etag_seen(fetcher: MediaFetcher, server: WebServer) -> None:
    rest = status(206, b"b" * 200, Content_Range="bytes 400-599/600", ETag='"1"')
    server.answers[PATH] = in_turn(server, body(b"a" * 400, Content_Length="600", ETag='"1"'), rest)
    assert fetched(fetcher, ADDRESS).content == b"a" * 400 + b"b" * 200
    assert server.requests[1][1]["Range"] == "bytes=400-"
    assert server.requests[1][1]["If-Match"] == '"1"'


def test_a_failed_precondition_starts_over(fetcher: MediaFetcher, server: WebServer) -> None:
    server.answers[PATH] = in_turn(
        server,
        body(b"a" * 400, Content_Length="600", ETag='"1"'),
        refusal(412, "PreconditionFailed"),
        body(b"c" * 500, ETag='"2"'),
    )
    assert fetched(fetcher, ADDRESS).content == b"c" * 500
    assert "Range" not in server.requests[2][1]


def test_a_worker_without_credentials_is_told_where_to_put_them(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    settings = S3Settings(endpoint_url=f"http://{server.host}")
    with closing(MediaFetcher(MediaSettings(), settings)) as fetcher:
        with pytest.raises(MediaForbidden, match=r"set s3\.access_key and s3\.secret_key"):
            fetched(fetcher, ADDRESS)
    assert server.requests == []


def test_a_wrong_address_never_reaches_the_store(fetcher: MediaFetcher, server: WebServer) -> None:
    for address in ("s3://media", "s3://me/../dia", "s3:media/clip.wav"):
        with pytest.raises(InvalidInput):
            fetched(fetcher, address)
    assert server.requests == []
