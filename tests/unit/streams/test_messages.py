"""Results on the wire: whatever a handler returned, there is one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.run.results import Result, result_of
from streams.messages import encode_result


def of_result(output: Any, **about: Any) -> Result:
    return result_of(
        {"odd": output}, task="asr", engine="e", model_name="m", id="r1", processing_s=0.5, **about
    )


def cycle() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize(
    "output",
    [object(), cycle(), "\ud800", {"\ud800": 1}, 10**5000, {(1, 2): 3}],
    ids=["object", "cycle", "surrogate", "key", "integer", "tuple"],
)
@pytest.mark.logs_errors("result_not_encodable")
def test_a_result_that_has_no_json_form_is_one_failure_that_still_repeats_the_metadata(output: Any) -> None:
    result, value = encode_result(of_result(output, metadata={"run": 7}, attempt=2, timings={"queue": 1.0}))
    assert json.loads(value) == result.as_dict()
    assert result.error is not None
    assert (result.success, result.error.code) == (False, "INTERNAL_ERROR")
    assert "no JSON form" in result.error.message
    assert (result.id, result.metadata, result.attempt) == ("r1", {"run": 7}, 2)
    assert (result.processing_time, result.timings["queue"]) == (0.5, 1.0)
