"""Media as handlers receive it: bytes already in memory, with where they came from."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from handlers.errors import MediaCorrupt, MediaTooLarge


@dataclass(frozen=True, slots=True)
class Media:
    """One fetched media value; immutable, so any thread may read it.

    `source` is the address as the caller wrote it (shortened for data: URIs) and is what error messages
    show. `content_type` is what the store or URI declared; decoders trust the bytes, not this.
    """

    content: bytes = field(repr=False)
    source: str
    content_type: str | None = None


def decode_data_uri(uri: str, *, max_bytes: int) -> Media:
    """Return the bytes a `data:` URI carries.

    Source: RFC 2397.

    Raises:
        MediaCorrupt: permanent; no comma, or base64 that does not decode.
        MediaTooLarge: permanent; more than `max_bytes` once decoded (checked before decoding).
    """
    head, comma, payload = uri.partition(",")
    shown = f"{head[:60]},… ({len(payload)} characters)"
    if not comma:
        raise MediaCorrupt(f"{shown} is not a data: URI; write data:<type>;base64,<payload>")
    declared, is_base64 = head.removeprefix("data:"), False
    if declared.endswith(";base64"):
        declared, is_base64 = declared.removesuffix(";base64"), True
    estimate = len(payload) * 3 // 4 - 2 if is_base64 else len(payload) // 3
    if estimate > max_bytes:
        raise MediaTooLarge(f"{shown} decodes to about {estimate} bytes; media.max_bytes allows {max_bytes}")
    try:
        content = base64.b64decode(payload, validate=True) if is_base64 else unquote_to_bytes(payload)
    except (binascii.Error, ValueError) as error:
        raise MediaCorrupt(
            f"{shown} does not decode: {error}; send standard base64 without line breaks"
        ) from None
    if len(content) > max_bytes:
        raise MediaTooLarge(f"{shown} holds {len(content)} bytes; media.max_bytes allows {max_bytes}")
    return Media(content, shown, declared or None)
