"""Parses media addresses, and shortens them for messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from handlers.errors import InvalidInput

_ADDRESSES = "s3://bucket/key, https://host/path, data:<type>;base64,<payload>"
ACCEPTED = f"{_ADDRESSES} or an absolute path"
ACCEPTED_OVER_HTTP = f"{_ADDRESSES}, or upload the file as multipart/form-data"

_LONGEST_SHOWN = 300
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_MAX_KEY_BYTES = 1024
_USER_INFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_SIGNED_QUERY = re.compile(r"\?[^?]*(X-Amz-|Signature=|AWSAccessKeyId=).*$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class S3Address:
    """A bucket, a key and, where one is pinned, a version."""

    bucket: str
    key: str
    version_id: str | None = None


def scheme_of(address: str, *, any_path: bool = False, accepted: str = ACCEPTED) -> str:
    """Return the address's scheme in lower case; "" for an absolute path, and with `any_path` for a relative one.

    `accepted` is what an error tells to write.

    Raises:
        InvalidInput: permanent; neither a scheme nor such a path, or characters no address can hold.
    """
    is_relative = any_path and address and "://" not in address[:32] and address[:5].lower() != "data:"
    if address.startswith("/") or is_relative:
        scheme = ""
    else:
        scheme, colon, _ = address[:32].partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise InvalidInput(f"{shown(address)} is not a media address; write {accepted}")
    if scheme.lower() != "data" and not _is_writable(address):
        raise InvalidInput(f"{shown(address)} holds characters that no address can; write {accepted}")
    return scheme.lower()


def parse_s3_address(address: str) -> S3Address:
    """Return the parts of `s3://bucket/key[?versionId=ID]`.

    The key is read as it is written, as the AWS command line and s3fs do: nothing is percent-decoded, and spaces,
    `?`, `#`, `%` and any Unicode stand for themselves. So `f"s3://{bucket}/{key}"` always names the key. Only a last
    `?versionId=` is a version. For a key that ends in one itself, add an empty one:
    `s3://bucket/key?versionId=7?versionId=`.

    Raises:
        InvalidInput: permanent; no bucket, no key, or a key that is too long or holds a `.` or `..` segment.
    """
    where = address[len("s3://") :] if address[:5].lower() == "s3://" else ""
    bucket, _, key = where.partition("/")
    before, pinned, version_id = key.rpartition("?versionId=")
    if pinned:
        key = before
    is_escaped = "?versionId=" in key
    if not bucket or not key or (pinned and not version_id and not is_escaped):
        raise InvalidInput(f"{shown(address)} is incomplete; write s3://bucket/key or s3://bucket/key?versionId=ID")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidInput(f"{shown(address)} names no valid bucket; use letters, digits, '.', '-' and '_'")
    key_bytes = len(key.encode())
    if key_bytes > _MAX_KEY_BYTES:
        raise InvalidInput(f"{shown(address)}: the key has {key_bytes} bytes; S3 allows {_MAX_KEY_BYTES}")
    if not {".", ".."}.isdisjoint(key.split("/")):
        # Servers and proxies may remove such segments, and the request would then name another bucket.
        raise InvalidInput(f"{shown(address)}: the key holds a '.' or '..' segment; rename the object")
    return S3Address(bucket, key, (version_id or None) if pinned else None)


def parse_file_uri(address: str) -> PurePosixPath:
    """Return the path of `file:///path` or `file://localhost/path`, percent-decoded.

    Source: RFC 8089.

    Raises:
        InvalidInput: permanent; another host, a query or a fragment, or no absolute path.
    """
    parts = urlsplit(address)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path.startswith("/"):
        raise InvalidInput(f"{shown(address)} is not a local file; write file:///absolute/path, '?' as %3F")
    return PurePosixPath(path)


def shown(address: str) -> str:
    """Return `address` for a message: without payload, user info and signed query, and shortened."""
    if address[:5].lower() == "data:":
        return f"{address[:60].partition(',')[0]},… ({len(address)} characters)"
    text = _USER_INFO.sub(r"\1…@", address[: 4 * _LONGEST_SHOWN])
    if text[:5].lower() == "http:" or text[:6].lower() == "https:":
        text = re.sub(r"[?#].*$", "?…", text, flags=re.DOTALL)
    else:
        text = _SIGNED_QUERY.sub("?…", text)
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode() if text else "an empty string"


def _is_writable(address: str) -> bool:
    """Return whether `address` can be encoded: no NUL, no lone surrogate."""
    try:
        return b"\x00" not in address.encode()
    except UnicodeEncodeError:
        return False
