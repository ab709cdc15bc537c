"""The schema of a request accepts what decoding accepts, null in optional fields included."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers import model_registry
from handlers.errors import InvalidRequest
from handlers.options.options import validate_options
from streams.http.documents import message_schemas, request_examples
from streams.messages import MetricsEvent, Request, Result
from streams.pipeline.decoding import decode_request
from tests.unit.handlers.json_schema import is_valid

SCHEMA = message_schemas(Request)["Request"]
REQUIRED = SCHEMA["required"]
OPTIONAL = sorted(SCHEMA["properties"].keys() - {*REQUIRED})
EXAMPLES = {task: one["value"] for task, one in request_examples(model_registry.tasks()).items()}
NOTHING = msgspec.json.decode(msgspec.json.encode(Request(task="", engine="", model_name="", data={})))

values = (
    st.none()
    | st.booleans()
    | st.integers(-2, 11)
    | st.floats(-2, 11)
    | st.text(max_size=3)
    | st.sampled_from(["x" * 256, "x" * 257, "x" * 513, "2030-01-31T12:00:00Z"])
    | st.lists(st.none(), max_size=1)
    | st.dictionaries(st.text(max_size=2), st.none(), max_size=1)
)


def is_accepted(request: Any) -> bool:
    try:
        decode_request(json.dumps(request).encode())
    except InvalidRequest:
        return False
    return True


@given(st.sampled_from([*REQUIRED, *OPTIONAL, "unheard_of"]), values)
@example("deadline", 5)
@example("reply_to", None)
def test_the_schema_accepts_what_decoding_accepts(name: str, value: Any) -> None:
    request = {**NOTHING, name: value}
    # Two things a schema does not tell: whether a text is a time, and how a number is written.
    if (name, type(value)) in (("deadline", str), ("priority", float)):
        return
    assert is_valid(request, SCHEMA) == is_accepted(request)


@pytest.mark.parametrize("task", model_registry.tasks())
def test_the_example_of_a_task_is_a_request_that_is_let_in(task: str) -> None:
    request, handler = EXAMPLES[task], model_registry.get(task)
    assert is_valid(request, SCHEMA)
    decoded = decode_request(json.dumps(request).encode())
    assert validate_options(decoded.options, task_options=handler.options, engine=decoded.engine) == (decoded.options)
    assert not handler.media_fields or handler.media_fields[0] in decoded.data


@pytest.mark.parametrize("task", model_registry.tasks())
@pytest.mark.parametrize("name", OPTIONAL)
def test_null_in_an_optional_field_is_as_if_it_were_not_given(task: str, name: str) -> None:
    request = {**EXAMPLES[task], name: None}
    assert is_valid(request, SCHEMA)
    left_out = {key: value for key, value in request.items() if key != name}
    assert decode_request(json.dumps(request).encode()) == decode_request(json.dumps(left_out).encode())


@pytest.mark.parametrize("name", REQUIRED)
def test_null_in_a_required_field_is_refused(name: str) -> None:
    request = {**EXAMPLES["asr"], name: None}
    assert not is_valid(request, SCHEMA)
    assert not is_accepted(request)


def test_a_default_stays_beside_the_values_that_a_field_takes() -> None:
    priority = SCHEMA["properties"]["priority"]
    assert priority["default"] == 5
    assert {"type": "null"} in priority["anyOf"]


def test_what_workers_write_is_described_as_it_is() -> None:
    schemas = message_schemas(Result, MetricsEvent)
    assert schemas["Result"]["properties"]["attempt"] == {"type": "integer", "default": 1}
    assert {"Result", "ResultError", "MetricsEvent"} <= schemas.keys()
