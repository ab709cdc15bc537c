"""JSON Schema of the messages, as the documents of the gateway and of the topics show it."""

from __future__ import annotations

from typing import Any

import msgspec

from streams.messages import Request

_REF = "#/components/schemas/{name}"
_NULL = {"type": "null"}


def message_schemas(*messages: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the schema of each of `messages`, and of what they refer to, by name.

    Of a request they accept what `streams.pipeline.decoding.decode_request` does, but for two things that a schema does
    not tell: a deadline written as text must be an RFC 3339 time, as `format` says, which not every validator
    checks, and a priority is written without a point.
    """
    _, schemas = msgspec.json.schema_components(messages, ref_template=_REF)
    if Request in messages:
        _say_what_decoding_takes(schemas["Request"])
    return schemas


def reference(name: str) -> dict[str, str]:
    """Return the reference to the schema of a message."""
    return {"$ref": _REF.format(name=name)}


def _say_what_decoding_takes(request: dict[str, Any]) -> None:
    fields = request["properties"]
    time = next(way for way in fields["deadline"]["anyOf"] if way["type"] == "string")
    time |= {"format": "date-time"}
    fields["deadline"]["description"] = "RFC 3339 with an offset, or seconds since the epoch."
    for name in fields.keys() - set(request["required"]):
        fields[name] = _or_null(fields[name])


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with null, which counts as not given, among what it takes."""
    if _NULL in schema.get("anyOf", ()):
        return schema
    beside: dict[str, Any] = {
        name: schema[name] for name in ("default", "description", "examples") if name in schema
    }
    values = {name: rule for name, rule in schema.items() if name not in beside}
    return {"anyOf": [values, _NULL], **beside}
