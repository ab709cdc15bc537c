"""Uploads files to the object store, where workers fetch them."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable
from pathlib import Path

from handlers.errors import InvalidInput, MediaForbidden, MediaUnavailable
from streams.media.addresses import parse_s3_address
from streams.settings import S3Settings

_CONNECTIONS = 4


def upload(
    path: Path, settings: S3Settings, *, to: str | None = None, on_bytes: Callable[[int], None] | None = None
) -> str:
    """Upload the file at `path` and return its s3:// address. Blocks.

    `to` is the address of the object, or of a folder where it ends in a slash. By default the folder is under
    `s3.uploads` and named by the hash of the content, so that the same file gets the same address. `on_bytes` is called
    with the bytes sent since the last call, from several threads.

    Raises:
        InvalidInput: permanent; the file cannot be read, or no address is given or set.
        MediaForbidden: permanent; the store refuses.
        MediaUnavailable: retryable; the store does not answer.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError

    from streams.media.s3 import make_s3_client

    address = _address(path, settings, to)
    target = parse_s3_address(address)
    client = make_s3_client(settings, connections=_CONNECTIONS)
    endpoint = settings.endpoint_url or "AWS"
    try:
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        client.upload_file(str(path), target.bucket, target.key, ExtraArgs={"ContentType": kind}, Callback=on_bytes)
    except OSError as error:
        raise _unreadable(path, error) from None
    except (S3UploadFailedError, ClientError) as error:
        raise MediaForbidden(
            f"{endpoint} does not take {address}: {error}; check the bucket, and that s3.access_key may write there"
        ) from None
    except BotoCoreError as error:
        raise MediaUnavailable(f"{endpoint} did not take {address}: {error}; try again") from None
    finally:
        client.close()
    return address


def _address(path: Path, settings: S3Settings, to: str | None) -> str:
    # To a name that ends like a version an empty version is added.
    name = f"{path.name}?versionId=" if "?versionId=" in path.name else path.name
    if to is not None:
        return f"{to}{name}" if to.endswith("/") else to
    if settings.uploads is None:
        raise InvalidInput(
            f"there is no place to put {path}: start `inferstream up` here, set s3.uploads to a place such as "
            "s3://media/uploads, or name the address"
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None
    return f"{settings.uploads.rstrip('/')}/{digest[:16]}/{name}"


def _unreadable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"{path} cannot be read ({error.strerror}); name a file of this machine")
