"""Media as handlers get them: bytes in memory, with their origin."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge, counted
from handlers.options.spec import shown


@dataclass(frozen=True, slots=True)
class Media:
    """One fetched media value; immutable, so any thread may read it.

    `source` is the caller's address (shortened for data: URIs), for error messages. `content_type` is what the store
    or URI declared; decoders trust the bytes, not this.
    """

    content: bytes = field(repr=False)
    source: str
    content_type: str | None = None


def encoded_file(
    value: Any, field: str, *, besides: type | tuple[type, ...] = (), named: str = " or a numpy array"
) -> tuple[bytes, str] | None:
    """Return the encoded file in `value`, and its name in messages; None where `value` is of a type in `besides`.

    Raises:
        InvalidInput: permanent; neither, such as an address, or a masked array; `named` describes `besides`.
    """
    match value:
        case Media(content=content, source=source):
            return content, source if source.startswith(field) else f"{field} ({source})"
        case bytes() | bytearray() | memoryview():
            return bytes(value), f"{field} (bytes)"
        case str():
            raise InvalidInput(f"{field} is {shown(value)}, which was not fetched; send s3://, data: or the bytes")
    if callable(getattr(value, "filled", None)):
        raise InvalidInput(f"{field} is a masked array; fill what is masked first, as by array.filled(0)")
    if isinstance(value, besides):
        return None
    given = f"a list of {len(value)}" if isinstance(value, list | tuple) else shown(value)
    raise InvalidInput(f"{field} is {given}; it must be one address, bytes{named}")


def decode_data_uri(uri: str, *, max_bytes: int) -> Media:
    """Return the bytes a `data:` URI carries, in base64 where `;base64`, in any case, is before the comma, else
    percent-encoded.

    Source: RFC 2397.

    Raises:
        MediaCorrupt: permanent; no comma, another encoding, or base64 that does not decode.
        MediaTooLarge: permanent; more than `max_bytes` once decoded (checked before decoding).
    """
    head, comma, payload = uri.partition(",")
    source = f"{head[:60]},… ({counted(len(payload), 'character')})"
    if not comma:
        raise MediaCorrupt(f"{source} is not a data: URI; write data:<type>;base64,<payload>")
    content_type, *parameters = head.removeprefix("data:").split(";")
    is_base64 = bool(parameters) and parameters[-1].strip().lower() == "base64"
    if is_base64:
        parameters.pop()
    if strange := next((one.strip() for one in parameters if one.strip() and "=" not in one), None):
        raise MediaCorrupt(
            f"{source} names the encoding {shown(strange)}; only base64, named last, and percent-encoding, which has "
            "no name, are known: write data:<type>;base64,<payload>"
        )
    estimate = len(payload) * 3 // 4 - 2 if is_base64 else len(payload) // 3
    if estimate > max_bytes:
        raise MediaTooLarge(f"{source} decodes to about {estimate} bytes; media.max_bytes allows {max_bytes}")
    try:
        content = base64.b64decode(payload, validate=True) if is_base64 else unquote_to_bytes(payload)
    except (binascii.Error, ValueError) as error:
        raise MediaCorrupt(f"{source} does not decode: {error}; send standard base64 without line breaks") from None
    if len(content) > max_bytes:
        raise MediaTooLarge(f"{source} holds {len(content)} bytes; media.max_bytes allows {max_bytes}")
    return Media(content, source, ";".join([content_type, *parameters]) or None)
