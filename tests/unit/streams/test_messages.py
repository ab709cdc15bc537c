"""Requests and results on the wire: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from handlers.errors import InvalidRequest, Undecodable
from streams.messages import Request, decode_request, encode, known_fields

MINIMAL = {
    "task": "asr",
    "engine": "transformers",
    "model_name": "whisper",
    "data": {"audio": "s3://media/a.wav"},
}


def message(**changes: object) -> bytes:
    return json.dumps(MINIMAL | changes).encode()


def test_a_minimal_request_gets_the_defaults_of_the_spec() -> None:
    request = decode_request(message())
    assert request == Request(**MINIMAL)  # type: ignore[arg-type]
    assert (request.priority, request.options, request.metadata, request.reply_to, request.id) == (
        5,
        {},
        {},
        None,
        "",
    )


def test_encoding_and_decoding_gives_the_same_request() -> None:
    request = decode_request(message(id="r1", priority=9, metadata={"run": "ünï"}, deadline=1.9e9))
    assert decode_request(encode(request)) == request


@pytest.mark.parametrize("field", ["task", "engine", "model_name", "data"])
def test_a_missing_required_field_is_named(field: str) -> None:
    without = {name: value for name, value in MINIMAL.items() if name != field}
    with pytest.raises(InvalidRequest, match=f"missing required field `{field}`"):
        decode_request(json.dumps(without).encode())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": 5}, r"\$\.task"),
        ({"data": []}, r"\$\.data"),
        ({"options": "none"}, r"\$\.options"),
        ({"priority": 10}, r"\$\.priority"),
        ({"priority": -1}, r"\$\.priority"),
        ({"option": {}}, "unknown field `option`"),
        ({"id": 7}, r"\$\.id"),
        ({"deadline": "tomorrow"}, "'tomorrow' is no RFC 3339 time"),
        ({"deadline": "2030-01-01T00:00:00"}, "is no RFC 3339 time"),
        ({"metadata": [1]}, r"\$\.metadata"),
    ],
)
def test_a_field_of_the_wrong_shape_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        decode_request(message(**changes))


@pytest.mark.parametrize(
    "value", [b"\xff\xfe\x00", b"not json", b'{"task": ', b"[1, 2]", b'"text"', b"17", b"null"]
)
def test_bytes_that_hold_no_json_object_are_undecodable(value: bytes) -> None:
    with pytest.raises(Undecodable, match="JSON"):
        decode_request(value)


def test_a_deadline_is_read_as_rfc3339_or_as_unix_seconds() -> None:
    assert decode_request(message(deadline="2030-01-01T00:00:00Z")).deadline_at() == 1893456000.0
    assert decode_request(message(deadline="2030-01-01T02:00:00+02:00")).deadline_at() == 1893456000.0
    assert decode_request(message(deadline=1893456000)).deadline_at() == 1893456000.0
    assert decode_request(message()).deadline_at() is None


def test_what_can_be_read_of_an_invalid_request_is_kept_for_its_caller() -> None:
    value = json.dumps({"id": "r7", "task": 3, "engine": "transformers", "metadata": {"a": 1}}).encode()
    assert known_fields(value) == {"id": "r7", "engine": "transformers", "metadata": {"a": 1}}
    assert known_fields(b"nonsense") == {}


def test_importing_messages_and_client_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, streams.messages, streams.client, streams.settings;"
        "print([m for m in ('torch', 'transformers', 'faust', 'mlflow', 'boto3') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
