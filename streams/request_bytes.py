"""Writes the request of a client as JSON, or says why that would be another request."""

from __future__ import annotations

import msgspec

from engines.run.json_form import first_bytes, first_wrong
from streams.client_errors import RequestNotSent
from streams.messages import MAX_ID_CHARS, Request, encode


def request_bytes(request: Request) -> bytes:
    """Return `request` as UTF-8 JSON.

    Raises:
        RequestNotSent: permanent; it has an id that is too long, or a value that JSON does not have.
    """
    # A worker would answer it under another id, which no call waits for.
    if len(request.id) > MAX_ID_CHARS:
        raise RequestNotSent(f"the id {request.id[:40]}… has {len(request.id)} characters; {MAX_ID_CHARS} are allowed")
    try:
        # For a number that JSON does not have msgspec writes null, for bytes base64: that would be another request.
        fields = msgspec.structs.asdict(request)
        if wrong := first_wrong(fields, "request", is_number=True):
            raise ValueError(wrong)
        if place := first_bytes(fields):
            raise RequestNotSent(
                f"request.{place} is bytes, which JSON does not have; send media as an s3:// address or as "
                "data:<type>;base64,<payload>, and text as str"
            )
        return encode(request)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestNotSent(
            f"request {request.id!r} cannot be written as JSON: {error}; its texts must be valid Unicode, and its "
            "data and options what JSON has"
        ) from None
