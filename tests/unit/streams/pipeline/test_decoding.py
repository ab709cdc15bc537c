"""Requests as they arrive: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

import json

import pytest

from engines.deadlines import deadline_at
from handlers.errors import InvalidRequest, Undecodable
from streams.messages import Request, encode
from streams.pipeline.decoding import MAX_METADATA_DEPTH, decode_request, known_fields

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


@pytest.mark.parametrize("field", ["task", "model_name", "data"])
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
        ({"priority": 10}, r"\$\.priority.* from 0 to 9"),
        ({"priority": -1}, r"\$\.priority.* from 0 to 9"),
        ({"option": {}}, "unknown field `option`"),
        ({"model": "m"}, "did you mean model_name"),
        ({"language": "en"}, "put language into options"),
        ({"num_predict": 4}, "put num_predict into options"),
        ({"id": 7}, r"\$\.id"),
        ({"inputs": "hi"}, "unknown field `inputs`.*what the task reads goes into data"),
        (
            {"deadline": 1796060115720},
            "beyond the year 9999; write seconds since the epoch, not milliseconds",
        ),
        ({"deadline": "tomorrow"}, "'tomorrow' is not an RFC 3339 time"),
        ({"deadline": "2030-01-01T00:00:00"}, "is not an RFC 3339 time"),
        ({"metadata": [1]}, r"\$\.metadata"),
    ],
)
def test_a_field_of_the_wrong_shape_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        decode_request(message(**changes))


@pytest.mark.parametrize("value", [b"\xff\xfe\x00", b"not json", b'{"task": ', b"[1, 2]", b'"text"', b"17", b"null"])
def test_bytes_that_hold_no_json_object_are_undecodable(value: bytes) -> None:
    with pytest.raises(Undecodable, match="JSON"):
        decode_request(value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"\xef\xbb\xbf" + message(), "send a UTF-8 JSON object without a byte order mark"),
        (message()[:-1] + b', "metadata": {"x": NaN}}', "send a UTF-8 JSON object without NaN"),
        (message(metadata={"x": "-"}).replace(b'"-"', b'"caf\xe9"'), "UTF-8"),
    ],
)
def test_what_keeps_a_value_from_being_json_is_named(value: bytes, told: str) -> None:
    with pytest.raises((Undecodable, InvalidRequest), match=told):
        decode_request(value)


def test_a_deadline_is_read_as_rfc3339_or_as_unix_seconds() -> None:
    for deadline in ("2030-01-01T00:00:00Z", "2030-01-01T02:00:00+02:00", 1893456000):
        assert deadline_at(decode_request(message(deadline=deadline)).deadline) == 1893456000.0
    assert decode_request(message()).deadline is None


def test_what_can_be_read_of_an_invalid_request_is_kept_for_its_caller() -> None:
    value = json.dumps({"id": "r7", "task": 3, "engine": "transformers", "metadata": {"a": 1}}).encode()
    assert known_fields(value) == {"id": "r7", "engine": "transformers", "metadata": {"a": 1}}
    assert known_fields(b"nonsense") == {}


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def with_field(name: str, value: bytes) -> bytes:
    """Return a request with one more field, whatever its value looks like."""
    return message(id="r7")[:-1] + b', "' + name.encode() + b'": ' + value + b"}"


@pytest.mark.parametrize("field", ["options", "id", "deadline", "priority", "reply_to", "metadata"])
def test_null_in_an_optional_field_counts_as_not_given(field: str) -> None:
    assert decode_request(message(**{field: None})) == decode_request(message())


def test_null_in_every_optional_field_leaves_the_others_as_they_are() -> None:
    request = decode_request(message(options=None, metadata=None, priority=None, id="r1", deadline=3))
    assert request == Request(**MINIMAL, id="r1", deadline=3.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["task", "model_name", "data"])
def test_null_in_a_required_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"got `null` - at `\$\.{field}`"):
        decode_request(message(**{field: None}))


@pytest.mark.parametrize(("field", "named"), [("bogus", "bogus"), ("priority", "priority")])
def test_null_in_one_field_does_not_hide_what_is_wrong_with_another(field: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        decode_request(message(**{field: "odd"}, options=None))


@pytest.mark.parametrize("depth", [1000, 5000, 200_000])
@pytest.mark.parametrize("field", ["metadata", "data", "bogus"])
def test_a_message_too_deep_to_be_read_at_all_is_undecodable(field: str, depth: int) -> None:
    with pytest.raises(Undecodable, match="nested too deeply"):
        decode_request(b'{"bogus": 1, "' + field.encode() + b'": ' + nested(depth) + b"}")
    assert known_fields(with_field(field, nested(depth))) == {}


def test_metadata_may_be_nested_as_deeply_as_a_result_can_hold() -> None:
    assert decode_request(with_field("metadata", nested(MAX_METADATA_DEPTH))).metadata
    with pytest.raises(InvalidRequest, match=f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels"):
        decode_request(with_field("metadata", nested(MAX_METADATA_DEPTH + 1)))
    in_lists = b"[" * MAX_METADATA_DEPTH + b"]" * MAX_METADATA_DEPTH
    with pytest.raises(InvalidRequest, match="nested deeper"):
        decode_request(with_field("metadata", b'{"a":' + in_lists + b"}"))


def test_metadata_too_deep_for_a_result_is_not_repeated_in_a_failure() -> None:
    known = known_fields(with_field("metadata", nested(MAX_METADATA_DEPTH + 1)))
    assert (known["id"], "metadata" in known) == ("r7", False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata", b'{"a": 1e400}'),
        ("metadata", b'{"a": ' + b"9" * 5000 + b"}"),
        ("metadata", b'{"a": "\xff"}'),
        ("options", b'{"temperature": 1e400}'),
        ("priority", b"1e400"),
        ("reply_to", b'"' + b"a" * 10_000 + b'"'),
        ("metadata", nested(900)),
    ],
)
def test_a_field_that_cannot_be_read_does_not_take_the_id_along(field: str, value: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(with_field(field, value))
    assert type(caught.value) is InvalidRequest
    known = known_fields(with_field(field, value))
    assert (known["id"], known["engine"], field in known) == ("r7", "transformers", False)


@pytest.mark.parametrize("field", ["id", "task", "engine", "model_name", "reply_to"])
def test_a_name_is_no_longer_than_every_failure_can_repeat(field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"length <= \d+ - at `\$\.{field}`"):
        decode_request(message(**{field: "x" * 513}))


@pytest.mark.parametrize("changes", [{"data": {"text": "a \ud83d"}}, {"options": {"\ud83d": 1}}, {"\ud83d": 1}])
def test_half_a_character_is_named_and_does_not_take_the_id_along(changes: dict[str, object]) -> None:
    value = message(id="r1", **changes)
    with pytest.raises(InvalidRequest, match="half of a character"):
        decode_request(value)
    assert known_fields(value)["id"] == "r1"


def test_both_halves_of_a_character_are_one() -> None:
    assert decode_request(message(data={"text": "\U0001f600"})).data == {"text": "\U0001f600"}
    with pytest.raises(InvalidRequest, match="unknown field `foo`"):
        decode_request(message(data={"text": "\U0001f600"}, foo=1))
