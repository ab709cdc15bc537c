"""What a client sends is what its caller wrote, or it is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from streams.client_errors import RequestNotSent
from streams.messages import Request
from streams.pipeline.decoding import decode_request
from streams.request_bytes import request_bytes


def request(**fields: Any) -> Request:
    return Request(**{"task": "t", "model_name": "m", "data": {"inputs": "hi"}, "id": "r1", **fields})


def test_a_request_is_read_back_as_it_was_written() -> None:
    written = request(options={"stop": ["ü", ""]}, metadata={"rows": [1, 2.5, None, True]}, priority=9)
    assert decode_request(request_bytes(written)) == written


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"data": {"inputs": b"hi"}}, "request.data.inputs is bytes"),
        ({"data": {"images": ["s3://b/k", bytearray(b"x")]}}, "request.data.images[1] is bytes"),
        ({"metadata": {"a": [{"b": memoryview(b"x")}]}}, "request.metadata.a[0].b is bytes"),
        ({"options": {"temperature": math.nan}}, "request.options.temperature is NaN"),
        ({"id": "r" * 257}, "has 257 characters; 256 are allowed"),
        ({"metadata": {"x": object()}}, "cannot be written as JSON"),
        ({"id": "\ud800"}, "cannot be written as JSON"),
    ],
)
def test_what_would_be_another_request_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestNotSent) as refused:
        request_bytes(request(**fields))
    assert told in str(refused.value)
