"""Downloads objects from S3, or from any store that speaks its protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import botocore.session
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from handlers.errors import InvalidInput, MediaForbidden, MediaNotFound
from streams.media.addresses import S3Address
from streams.media.fetch import Changed, Fetch, Interrupted
from streams.media.http_get import HttpClient, TransferFailed, is_loopback
from streams.media.s3_get import ObjectGets
from streams.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_TRY_AGAIN_STATUSES = frozenset({408, 429})
_TRY_AGAIN_CODES = frozenset({"SlowDown", "RequestTimeout", "Throttling", "InternalError"})
_OTHER_REGION_CODES = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})

_LONGEST_REASON = 200

_TOKEN = "no longer accepts the worker's session token; renew s3.session_token, or the role"
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
    "ExpiredToken": _TOKEN,
    "InvalidToken": _TOKEN,
    "InvalidTokenId": _TOKEN,
    "TokenRefreshRequired": _TOKEN,
    "InvalidObjectState": "has archived the object; restore it first",
}


class S3Store:
    """A client of one store; thread-safe, with up to `connections` connections."""

    def __init__(self, settings: S3Settings, *, connections: int) -> None:
        self._endpoint = settings.endpoint_url or "AWS"
        session = _session(settings)
        self._client = _client(session, settings, connections)
        self._http = HttpClient(
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            # What botocore would trust.
            ca_file=session._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE"),
        )
        self._gets = ObjectGets(self._client, session.get_credentials(), self._http)

    def get(self, address: S3Address, fetch: Fetch) -> None:
        """Send one GET of the object at `address`, as `streams.media.download.Get`."""
        source = fetch.source
        try:
            self._gets.get(address, fetch.condition(), fetch)
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

    def _refusal(self, error: ClientError, address: S3Address, source: str) -> Exception:
        """Return the exception for an error that the store answered with.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
        """
        code = str(error.response.get("Error", {}).get("Code", ""))
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
        if code in _OTHER_REGION_CODES:
            return MediaForbidden(f"{source}: the bucket is in another region ({code}); set s3.region to it")
        if status == 403 or code in _DENIALS:
            return MediaForbidden(f"{source}: {self._denial(code, address)}")
        if code in _INVALID_ADDRESS_CODES:
            said = str(error.response.get("Error", {}).get("Message", ""))[:_LONGEST_REASON] or "no reason"
            return InvalidInput(
                f"{source}: {self._endpoint} refuses the bucket, the key or the version id: {code}: {said}"
            )
        return MediaForbidden(f"{source}: {self._endpoint} answers {status} {code}; check how it is stored")

    def _denial(self, code: str, address: S3Address) -> str:
        if code in _DENIALS:
            return f"{self._endpoint} {_DENIALS[code]}"
        arn = f"arn:aws:s3:::{address.bucket}/{address.key}"
        return (
            f"{self._endpoint} denies access ({code}); grant s3:GetObject on {arn} to the worker's s3.access_key; "
            "without s3:ListBucket a missing key looks the same"
        )


def make_s3_client(settings: S3Settings, *, connections: int) -> S3Client:
    """Return a client that neither retries nor waits longer than its two timeouts.

    Retries are up to `download`, which knows the deadline. Without keys in the settings, boto3's own chain of
    credentials (environment, profile, role) is used.
    """
    return _client(_session(settings), settings, connections)


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


def _client(session: Session, settings: S3Settings, connections: int) -> S3Client:
    style: Literal["path", "virtual"] = "path" if settings.path_style else "virtual"
    return session.client(
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


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
