"""Signed GETs of objects, without the work that boto3's client repeats for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from streams.media.addresses import S3Address
from streams.media.fetch import CHUNK_BYTES
from streams.media.http_get import HttpClient, Receiver, proxy_for

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_s3.client import S3Client

_PLAIN = "-._~"
"""Characters that are not escaped in a URL of S3, beside letters and digits."""

_REDIRECTS = frozenset({301, 302, 307})
_OTHER_REGION_CODES = frozenset({"PermanentRedirect", "IllegalLocationConstraintException"})

_MOST_BUCKETS = 1000
"""How many buckets are remembered; requests name them, so there may be any number."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Where a bucket's objects are, how its requests are signed, and its proxy, if any."""

    url: str
    region: str
    proxy: str | None


class ObjectGets:
    """Sends GETs for objects as boto3's client would, in a third of its time.

    For every request boto3's client checks parameters, applies endpoint rules, runs hooks and converts each header;
    with many small objects that is most of a worker's time. Here the client is asked once per bucket; then botocore
    signs and `http` sends. Buckets that need more are left to the client.

    Thread-safe; owns neither of the two.
    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self, client: S3Client, credentials: Credentials | None, http: HttpClient) -> None:
        self._client = client
        self._credentials = credentials
        self._http = http
        self._errors: Any = create_parser("rest-xml")
        self._buckets: dict[str, _Bucket | None] = {}

    def get(self, address: S3Address, condition: Mapping[str, str], receiver: Receiver) -> None:
        """Pass the object at `address`, or the part that `condition` selects, to `receiver`.

        `condition` holds headers that are parameters of GetObject too, such as Range and If-Match.

        Raises:
            ClientError: the store refuses.
            BotoCoreError: no credentials, not a valid bucket; or what boto3's client raises of that tree.
            TransferFailed: no answer, or not all of it.
        """
        if self._get_signed(address, condition, receiver):
            return
        request: dict[str, Any] = {name.replace("-", ""): value for name, value in condition.items()}
        if address.version_id is not None:
            request["VersionId"] = address.version_id
        found = self._client.get_object(Bucket=address.bucket, Key=address.key, **request)
        stream: Any = found["Body"]
        with stream as body:
            receiver.begin(found["ResponseMetadata"]["HTTPHeaders"])
            # read() waits for all that it was asked for, which can take for ever; read1() returns what has arrived.
            while chunk := body.read1(CHUNK_BYTES):
                receiver.take(chunk)

    def _get_signed(self, address: S3Address, headers: Mapping[str, str], receiver: Receiver) -> bool:
        """Get the object with a request signed here; return False where the client must do it."""
        bucket = self._bucket(address.bucket)
        if bucket is None or self._credentials is None:
            return False
        url = bucket.url + quote(address.key, safe=f"/{_PLAIN}")
        if address.version_id is not None:
            url += f"?versionId={quote(address.version_id, safe=_PLAIN)}"
        request = AWSRequest("GET", url, headers={"Accept-Encoding": "identity", **headers})
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", bucket.region).add_auth(request)
        answer = self._http.get(url, dict(request.headers.items()), receiver, proxy=bucket.proxy)
        if answer.is_success:
            return True
        parts = {"status_code": answer.status, "headers": answer.headers, "body": answer.body}
        refusal: Any = self._errors.parse(parts, None)
        if not _is_elsewhere(refusal):
            raise ClientError(refusal, "GetObject")
        self._buckets[address.bucket] = None  # the client finds out where, and follows
        return False

    def _bucket(self, name: str) -> _Bucket | None:
        """Return the address of bucket `name`: the client tells it by signing an address."""
        try:
            return self._buckets[name]
        except KeyError:
            pass
        signed = self._client.generate_presigned_url("get_object", Params={"Bucket": name, "Key": "k"})
        url = signed.partition("?")[0].removesuffix("k")
        scope = parse_qs(urlsplit(signed).query).get("X-Amz-Credential", [""])[0].split("/")
        # Another service than s3, such as s3express, has its own signatures.
        is_plain = len(scope) == 5 and scope[3] == "s3"
        bucket = _Bucket(url, scope[2], proxy_for(url)) if is_plain else None
        if len(self._buckets) >= _MOST_BUCKETS:
            self._buckets.clear()
        self._buckets[name] = bucket
        return bucket


def _is_elsewhere(refusal: dict[str, Any]) -> bool:
    """Return whether a store says that the bucket is in another region, which the client can follow."""
    error = refusal.get("Error", {})
    if error.get("Code") == "AuthorizationHeaderMalformed":
        return "Region" in error  # where the store knows it
    return (
        refusal["ResponseMetadata"]["HTTPStatusCode"] in _REDIRECTS
        or error.get("Code") in _OTHER_REGION_CODES
    )
