"""Decodes requests, and reads as much as possible of invalid ones."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import msgspec

from engines.deadlines import deadline_at
from handlers.errors import InvalidRequest, Undecodable, counted
from handlers.options.options import OPTIONS
from streams.messages import Id, Name, Request, encode

MAX_METADATA_DEPTH = 200
"""Most levels of metadata: far fewer than can be decoded, so that every result can repeat them."""

_request_decoder = msgspec.json.Decoder(Request)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_REPEATED: dict[str, msgspec.json.Decoder[Any]] = {
    "id": msgspec.json.Decoder(Id),
    **dict.fromkeys(("task", "engine", "model_name", "reply_to"), msgspec.json.Decoder(Name)),
    "metadata": msgspec.json.Decoder(dict[str, Any]),
}
"""The fields that a failure repeats of its request, or needs to reach its caller."""
_CONTAINERS = frozenset({dict, list})
_OPTIONAL = frozenset({"engine", "options", "id", "deadline", "priority", "reply_to", "metadata"})
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_NOT_READABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_request(value: bytes) -> Request:
    """Return the request in `value`; null in an optional field counts as not given.

    Raises:
        Undecodable: permanent; not a JSON object, so not even an id can be read.
        InvalidRequest: permanent; a JSON object with missing, unknown or wrong fields.
    """
    try:
        request = _request_decoder.decode(value)
    except _NOT_READABLE:
        request = _decode_with_nulls(value)
    # Every level takes two bytes, so short messages need no check.
    if len(value) > 2 * MAX_METADATA_DEPTH and _is_too_deep(request.metadata):
        raise InvalidRequest(
            f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels, and a result could not repeat it; "
            "make it flatter, or a string"
        )
    deadline_at(request.deadline)
    return request


def _decode_with_nulls(value: bytes) -> Request:
    """Return the request in `value` that did not decode as it is, or raise the reason."""
    fields = _fields_of(value)
    given = {name: raw for name, raw in fields.items() if name not in _OPTIONAL or bytes(raw) != b"null"}
    try:
        return _request_decoder.decode(encode(given))
    except _NOT_READABLE as error:
        if _fields_with_half_characters(value):
            raise InvalidRequest(
                "a string of the request has half of a character (a lone surrogate, as \\ud83d); send whole ones"
            ) from None
        if isinstance(error, UnicodeDecodeError):
            raise InvalidRequest(f"the request is not UTF-8 text: {error}; send UTF-8") from None
        if "$.priority" in str(error):
            raise InvalidRequest(
                f"the request is not valid: {error}; priority is a whole number from 0 to 9, and 9 is most urgent"
            ) from None
        raise InvalidRequest(
            f"the request is not valid: {error}; {_hint(given)}its fields are {', '.join(Request.__struct_fields__)}; "
            "what the task reads goes into data"
        ) from None


def _hint(given: Iterable[str]) -> str:
    """Suggest a known field for the first unknown field of a request."""
    strange = next((name for name in given if name not in Request.__struct_fields__), "")
    if strange in OPTIONS or any(strange in spec.engine_names.values() for spec in OPTIONS.values()):
        return f"put {strange} into options; "
    near = get_close_matches(strange, Request.__struct_fields__, 1)
    return f"did you mean {near[0]}? " if near else ""


def _fields_of(value: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of a JSON object, each still encoded.

    Raises:
        Undecodable: permanent; not a JSON object.
    """
    try:
        return _fields_decoder.decode(value)
    except RecursionError:
        raise Undecodable(
            f"the message ({len(value)} bytes) is nested too deeply to be read; make it flatter"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if fields := _fields_with_half_characters(value):
            return fields
        unwanted = ("a byte order mark", "NaN", "Infinity")
        here = (value.startswith(codecs.BOM_UTF8), b"NaN" in value, b"Infinity" in value)
        hint = next((f" without {name}" for name, is_here in zip(unwanted, here, strict=True) if is_here), "")
        raise Undecodable(
            f"the message ({counted(len(value), 'byte')}, starting {value[:24]!r}) is not a JSON object: {error}; "
            f"send a UTF-8 JSON object{hint} with task, engine, model_name and data"
        ) from None


def _fields_with_half_characters(value: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields of a JSON object with a lone surrogate in a string; of any other, none.

    Such a value is JSON but not Unicode text: producers send it when they cut a string within a character.
    """
    if b"\\ud" not in value.lower():
        return {}
    try:
        fields = json.loads(value)
        half = _HALF_CHARACTER.search(json.dumps(fields, ensure_ascii=False))
    except (ValueError, RecursionError):
        return {}
    if half is None or not isinstance(fields, dict):
        return {}
    names = {name: name.encode(errors="replace").decode() for name in fields}
    return {names[name]: msgspec.Raw(json.dumps(field).encode()) for name, field in fields.items()}


def known_fields(value: bytes) -> dict[str, Any]:
    """Return the readable fields of an invalid request that a failed result repeats.

    Each field is read by itself, so that one bad field does not cost the others.
    """
    try:
        fields = _fields_of(value)
    except Undecodable:
        return {}
    known: dict[str, Any] = {}
    for name, decoder in _REPEATED.items():
        with contextlib.suppress(*_NOT_READABLE, KeyError):
            known[name] = decoder.decode(fields[name])
    if _is_too_deep(known.get("metadata", {})):
        del known["metadata"]
    return known


def _is_too_deep(metadata: dict[str, Any]) -> bool:
    if _CONTAINERS.isdisjoint(map(type, metadata.values())):
        return False  # the usual case
    level: list[Any] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        level = [
            part for one in level for part in (one.values() if type(one) is dict else one) if type(part) in _CONTAINERS
        ]
        if not level:
            return False
    return True
