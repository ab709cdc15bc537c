"""Signed GETs of a store's objects, made of botocore's parts without what its client does anew for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from streams.media.addresses import S3Address

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_s3.client import S3Client

_PLAIN = "-._~"
"""What a URL of S3 holds unescaped beside letters and digits."""

_REDIRECTS = frozenset({301, 302, 307})
_OTHER_REGION_CODES = frozenset({"PermanentRedirect", "IllegalLocationConstraintException"})

_MOST_BUCKETS = 1000
"""Buckets to remember; requests name them, so there may be any number."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Where a bucket's objects are, and how requests for them are signed."""

    url: str
    region: str


class ObjectGets:
    """Sends GETs for objects as the client of boto3 would, in about half its time.

    A client checks parameters, applies rules for endpoints, runs hooks and reads each header by its type for
    every request; with many small objects that is most of what a worker does. Here the client is asked once per
    bucket, and then only its signature and its connections are used; buckets that need more are left to it.

    Thread-safe; the connections belong to the client.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self, client: S3Client, credentials: Credentials | None) -> None:
        self._client = client
        self._credentials = credentials
        self._connections: Any = client._endpoint.http_session  # type: ignore[attr-defined]
        self._errors: Any = create_parser("rest-xml")
        self._buckets: dict[str, _Bucket | None] = {}

    def get(self, address: S3Address, condition: dict[str, str]) -> tuple[Mapping[str, str], Any]:
        """Return the headers, by names in lower case, and the body of a success, unread: the HTTP client's own.

        `condition` holds headers that are parameters of GetObject too, such as Range and If-Match.

        Raises:
            ClientError: the store refuses.
            BotoCoreError: no credentials, no valid bucket, no connection, no answer.
        """
        answer = self._signed(address, condition)
        if answer is not None:
            return answer.headers, answer.raw
        request: dict[str, Any] = {name.replace("-", ""): value for name, value in condition.items()}
        if address.version_id is not None:
            request["VersionId"] = address.version_id
        found = self._client.get_object(Bucket=address.bucket, Key=address.key, **request)
        return found["ResponseMetadata"]["HTTPHeaders"], found["Body"]

    def _signed(self, address: S3Address, headers: dict[str, str]) -> AWSResponse | None:
        """Return the answer to a GET signed here, None where this bucket is the client's."""
        bucket = self._bucket(address.bucket)
        if bucket is None or self._credentials is None:
            return None
        url = bucket.url + quote(address.key, safe=f"/{_PLAIN}")
        if address.version_id is not None:
            url += f"?versionId={quote(address.version_id, safe=_PLAIN)}"
        request = AWSRequest("GET", url, headers={"User-Agent": "inferstream", **headers}, stream_output=True)
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", bucket.region).add_auth(request)
        answer: AWSResponse = self._connections.send(request.prepare())
        if answer.status_code < 300:
            return answer
        parts = {"status_code": answer.status_code, "headers": answer.headers, "body": answer.content}
        refusal: Any = self._errors.parse(parts, None)
        if not _is_elsewhere(refusal):
            raise ClientError(refusal, "GetObject")
        self._buckets[address.bucket] = None  # the client finds out where, and follows
        return None

    def _bucket(self, name: str) -> _Bucket | None:
        """Return where `name` is, which the client says by signing an address in it."""
        try:
            return self._buckets[name]
        except KeyError:
            pass
        signed = self._client.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "k"})
        url = signed.partition("?")[0].removesuffix("k")
        scope = parse_qs(urlsplit(signed).query).get("X-Amz-Credential", [""])[0].split("/")
        # Another service than s3, such as s3express, has signatures of its own.
        bucket = _Bucket(url, scope[2]) if len(scope) == 5 and scope[3] == "s3" else None
        if len(self._buckets) >= _MOST_BUCKETS:
            self._buckets.clear()
        self._buckets[name] = bucket
        return bucket


def _is_elsewhere(refusal: dict[str, Any]) -> bool:
    """Return whether a store says that the bucket is in another region, in one of the ways that the client follows."""
    error = refusal.get("Error", {})
    if error.get("Code") == "AuthorizationHeaderMalformed":
        return "Region" in error  # where the store knows it
    return (
        refusal["ResponseMetadata"]["HTTPStatusCode"] in _REDIRECTS
        or error.get("Code") in _OTHER_REGION_CODES
    )
