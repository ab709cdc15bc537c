"""Downloads objects from S3, or from any store that speaks its protocol."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import botocore.session
from boto3.session import Session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import create_parser
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from handlers.errors import InvalidInput, MediaForbidden, MediaNotFound
from streams.media.addresses import S3Address
from streams.media.fetch import CHUNK_BYTES, Changed, Fetch, Interrupted
from streams.media.http_get import HttpClient, TransferFailed, is_loopback, proxy_for
from streams.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_TRY_AGAIN_STATUSES = frozenset({408, 429})
_TRY_AGAIN_CODES = frozenset({"SlowDown", "RequestTimeout", "Throttling", "InternalError"})
_WRONG_REGION_CODES = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})

_LONGEST_REASON = 200

_INVALID_ADDRESS_CODES = frozenset(
    {
        "InvalidArgument",
        "InvalidBucketName",
        "InvalidObjectName",
        "InvalidURI",
        "KeyTooLongError",
        "XMinioInvalidObjectName",
        "XMinioInvalidResourceName",
    }
)
"""Error codes of stores for names that are not valid, whether or not an object exists."""
_DENIALS = {
    "InvalidAccessKeyId": "does not know the access key; check s3.access_key",
    "SignatureDoesNotMatch": "refuses the signature; check s3.secret_key",
    "RequestTimeTooSkewed": "has another time than the worker; set the worker's clock",
    "InvalidObjectState": "has archived the object; restore it first",
    **dict.fromkeys(
        ("ExpiredToken", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired"),
        "no longer accepts the worker's session token; renew s3.session_token, or the role",
    ),
}

_PLAIN = "-._~"
"""Characters that are not escaped in a URL of S3, beside letters and digits."""

_REDIRECTS = frozenset({301, 302, 307})
_OTHER_REGION_CODES = frozenset({"PermanentRedirect", "IllegalLocationConstraintException"})

_MOST_BUCKETS = 1000
"""How many buckets are remembered; requests name them, so there may be any number."""


class _Bucket(NamedTuple):
    """Where a bucket's objects are, how its requests are signed, and its proxy, if any."""

    url: str
    region: str
    proxy: str | None


class S3Store:
    """A client of one store; thread-safe, with up to `connections` connections.

    It sends GETs as boto3's client would, in a third of its time. For every request that client checks parameters,
    applies endpoint rules, runs hooks and converts each header; with many small objects that is most of a worker's
    time. Here it is asked once per bucket; then botocore signs and libcurl sends. Buckets that need more are left to
    the client.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """

    def __init__(self, settings: S3Settings, *, connections: int) -> None:
        self._endpoint = settings.endpoint_url or "AWS"
        session = _session(settings)
        self._client = make_s3_client(settings, connections=connections, session=session)
        self._credentials = session.get_credentials()
        self._http = HttpClient(
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            # What botocore would trust.
            ca_file=session._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE"),
        )
        self._errors: Any = create_parser("rest-xml")
        self._buckets: dict[str, _Bucket | None] = {}

    def get(self, address: S3Address, fetch: Fetch) -> None:
        """Send one GET of the object at `address`, as `streams.media.download.Get`."""
        source = fetch.source
        try:
            if not self._get_signed(address, fetch):
                self._get_by_client(address, fetch)
        except ClientError as error:
            raise self._refusal(error, address, source) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise MediaForbidden(
                f"{source}: the worker has no S3 credentials; set s3.access_key and s3.secret_key, or give it a role"
            ) from None
        except ParamValidationError as error:
            raise InvalidInput(f"{source} is not a valid S3 address: {error}") from None
        except TransferFailed as error:
            raise Interrupted(f"{error} ({self._endpoint})") from None
        except (BotoCoreError, HTTPError) as error:
            raise Interrupted(f"{type(error).__name__} from {self._endpoint}") from None

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()
        self._http.close()

    def _get_signed(self, address: S3Address, fetch: Fetch) -> bool:
        """Get the object with a request signed here; return False where the client must do it."""
        bucket = self._bucket(address.bucket)
        if bucket is None or self._credentials is None:
            return False
        url = bucket.url + quote(address.key, safe=f"/{_PLAIN}")
        if address.version_id is not None:
            url += f"?versionId={quote(address.version_id, safe=_PLAIN)}"
        request = AWSRequest("GET", url, headers={"Accept-Encoding": "identity", **fetch.condition()})
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", bucket.region).add_auth(request)
        answer = self._http.get(url, dict(request.headers.items()), fetch, proxy=bucket.proxy)
        if answer.is_success:
            return True
        parts = {"status_code": answer.status, "headers": answer.headers, "body": answer.body}
        refusal: Any = self._errors.parse(parts, None)
        if not _is_elsewhere(refusal):
            raise ClientError(refusal, "GetObject")
        self._buckets[address.bucket] = None  # the client finds out where, and follows
        return False

    def _get_by_client(self, address: S3Address, fetch: Fetch) -> None:
        # The headers of a condition, such as If-Match, are parameters of GetObject too.
        request: dict[str, Any] = {name.replace("-", ""): value for name, value in fetch.condition().items()}
        if address.version_id is not None:
            request["VersionId"] = address.version_id
        found = self._client.get_object(Bucket=address.bucket, Key=address.key, **request)
        stream: Any = found["Body"]
        with stream as body:
            fetch.begin(found["ResponseMetadata"]["HTTPHeaders"])
            # read() waits for all that it was asked for, which can take for ever; read1() returns what has arrived.
            while chunk := body.read1(CHUNK_BYTES):
                fetch.take(chunk)

    def _bucket(self, name: str) -> _Bucket | None:
        """Return the address of bucket `name`: the client tells it by signing an address."""
        with suppress(KeyError):
            return self._buckets[name]
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

    def _refusal(self, error: ClientError, address: S3Address, source: str) -> Exception:
        """Return the exception for an error that the store answered with.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
        """
        told = error.response.get("Error", {})
        code = str(told.get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        bucket = address.bucket
        if status in (412, 416):
            return Changed()
        if status >= 500 or status in _TRY_AGAIN_STATUSES or code in _TRY_AGAIN_CODES:
            return Interrupted(f"{status} {code} from {self._endpoint}")
        if code == "NoSuchBucket":
            return MediaNotFound(
                f"{source}: {self._endpoint} has no bucket {bucket!r}; check the name and s3.endpoint_url"
            )
        if code == "NoSuchVersion" or status == 405:
            return MediaNotFound(f"{source}: no such version, or it marks a deletion; list the versions")
        if code == "NoSuchKey":
            return MediaNotFound(
                f"{source}: bucket {bucket!r} has no key {address.key!r}; check that its upload is complete "
                "and that the key is written as it is stored (it is not percent-decoded)"
            )
        if status == 404:
            return MediaNotFound(
                f"{source}: {self._endpoint} answers 404 {code}; check that s3.endpoint_url is an S3 store"
            )
        if code in _WRONG_REGION_CODES:
            return MediaForbidden(f"{source}: the bucket is in another region ({code}); set s3.region to it")
        if code in _DENIALS:
            return MediaForbidden(f"{source}: {self._endpoint} {_DENIALS[code]}")
        if status == 403:
            return MediaForbidden(
                f"{source}: {self._endpoint} denies access ({code}); grant s3:GetObject on "
                f"arn:aws:s3:::{bucket}/{address.key} to the worker's s3.access_key; without s3:ListBucket a missing "
                "key looks the same"
            )
        if code in _INVALID_ADDRESS_CODES:
            said = str(told.get("Message", ""))[:_LONGEST_REASON] or "no reason"
            return InvalidInput(
                f"{source}: {self._endpoint} refuses the bucket, the key or the version id: {code}: {said}"
            )
        return MediaForbidden(f"{source}: {self._endpoint} answers {status} {code}; check how it is stored")


def _is_elsewhere(refusal: dict[str, Any]) -> bool:
    """Return whether a store says that the bucket is in another region, which the client can follow."""
    error = refusal.get("Error", {})
    if error.get("Code") == "AuthorizationHeaderMalformed":
        return "Region" in error  # where the store knows it
    return refusal["ResponseMetadata"]["HTTPStatusCode"] in _REDIRECTS or error.get("Code") in _OTHER_REGION_CODES


def make_s3_client(settings: S3Settings, *, connections: int, session: Session | None = None) -> S3Client:
    """Return a client that neither retries nor waits longer than its two timeouts.

    Retries are up to `download`, which knows the deadline. Without keys in the settings, boto3's own chain of
    credentials (environment, profile, role) is used.
    """
    style: Literal["path", "virtual"] = "path" if settings.path_style else "virtual"
    return (session or _session(settings)).client(
        "s3",
        endpoint_url=settings.endpoint_url,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": style},
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=connections,
            connect_timeout=settings.connect_timeout_s,
            read_timeout=settings.read_timeout_s,
            tcp_keepalive=True,
            user_agent="inferstream",  # botocore builds its own for every request
            proxies={} if is_loopback(settings.endpoint_url or "") else None,
            # A checksum is of the whole body, and the body is read in pieces that may come from several GETs.
            response_checksum_validation="when_required",
        ),
    )


def _session(settings: S3Settings) -> Session:
    core = botocore.session.get_session()
    # The dates of objects are not used, and parsing one costs more than the rest of an answer.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return Session(
        botocore_session=core,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=_plain(settings.secret_key),
        aws_session_token=_plain(settings.session_token),
        region_name=settings.region,
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
