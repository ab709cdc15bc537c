"""Results on the wire: whatever a handler returned, there is one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from engines.run.results import Result, result_of
from streams.messages import encode_result


def of_result(output: Any, **about: Any) -> Result:
    return result_of({"odd": output}, task="asr", engine="e", model_name="m", id="r1", processing_s=0.5, **about)


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


@dataclass
class Box:
    corner: Any


@pytest.mark.parametrize(
    ("output", "written"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.array([[1.5, 2.5]], np.float16), [[1.5, 2.5]]),
        (torch.tensor([1.5, 2.0], dtype=torch.bfloat16), [1.5, 2.0]),
        ({"deep": [{"er": (np.uint8(1),)}]}, {"deep": [{"er": [1]}]}),
        ({np.int64(3): 1}, {"3": 1}),
        (Box(np.float32(2.0)), {"corner": 2.0}),
    ],
    ids=repr,
)
def test_numbers_and_arrays_of_numpy_and_torch_are_written_as_numbers(output: Any, written: Any) -> None:
    result, value = encode_result(of_result(output))
    assert result.success, result.error
    assert json.loads(value)["result"]["odd"] == written


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ({"boxes": [1, {"raw": object()}]}, "result.odd.boxes[1].raw is object"),
        ({"\ud800" * 100: object()}, "\\ud800 is object"),
        (np.array([1j]), "result.odd is ndarray"),
        ([np.complex64(1)], "result.odd[0] is complex64"),
        (np.longdouble(1), "result.odd is longdouble"),
        (Box(object()), "result.odd is Box"),
        ({"a": {object(): 1}}, "result.odd.a has the key object"),
    ],
)
@pytest.mark.logs_errors("result_not_encodable")
def test_a_value_without_a_json_form_is_named(output: Any, named: str) -> None:
    result, _ = encode_result(of_result(output))
    assert result.error is not None
    assert (result.error.code, f"{named}, which has no JSON form" in result.error.message) == (
        "INTERNAL_ERROR",
        True,
    ), result.error.message


class Endless:
    def tolist(self) -> Any:
        raise MemoryError


@pytest.mark.logs_errors("result_not_encodable")
def test_a_result_for_which_there_is_no_memory_may_be_asked_for_again() -> None:
    result, _ = encode_result(of_result(Endless()))
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("OUT_OF_MEMORY", True)
