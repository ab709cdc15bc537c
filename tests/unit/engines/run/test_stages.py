"""What handlers may return and raise, and what becomes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engines.parts import Bench, ShoutHandler


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("text", ["preprocess-bug", "postprocess-bug"])
@pytest.mark.logs_errors("stage_failed")
def test_a_bug_in_a_handler_is_an_internal_error_that_hides_its_details(bench: Bench, text: str) -> None:
    error = bench.error_of({"text": text})
    assert error["code"] == "INTERNAL_ERROR"
    assert "a bug" not in error["message"]


@pytest.mark.parametrize(
    ("stage", "returned", "told"),
    [
        ("preprocess", "text", "returned str from preprocess; it must return a dict"),
        ("postprocess", ["text"], "returned list from postprocess; it must return a dict"),
        ("postprocess", {"metadata": 5}, "returned int as metadata; it must be a dict"),
    ],
)
def test_a_handler_that_returns_something_else_than_a_dict_is_told_so(
    tmp_path: Path, stage: str, returned: Any, told: str
) -> None:
    returning = type("Returning", (ShoutHandler,), {stage: lambda self, *_: returned})
    error = Bench(tmp_path, handler=returning).error_of({"text": "hello"})
    assert error["code"] == "INTERNAL_ERROR"
    assert f"the handler of task shout {told}" == error["message"]


def test_a_field_that_the_task_does_not_read_is_refused_after_what_the_handler_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path, handler=type("Strict", (ShoutHandler,), {"data_fields": ("text",)}))
    error = bench.error_of({"text": "hello", "txet": "hello"})
    assert (error["code"], error["message"]) == (
        "INVALID_INPUT",
        "data.txet is unknown to task shout, which reads text; did you mean data.text?",
    )
    assert "data.text is required" in bench.error_of({"txet": "hello"})["message"]


@dataclass
class Score:
    value: float


@pytest.mark.parametrize(
    ("output", "place"),
    [
        ({"score": math.nan}, "result.score is NaN"),
        (
            {"labels": [{"label": "a", "score": 0.5}, {"label": "b", "score": math.inf}]},
            "result.labels[1].score is Infinity",
        ),
        ({"embeddings": [[0.5] * 300, [*[0.5] * 300, -math.inf]]}, "result.embeddings[1][300] is -Infinity"),
        ({"metadata": {"time_s": math.nan}}, "result.metadata.time_s is NaN"),
        ({"pair": (1, math.nan)}, "result.pair[1] is NaN"),
        ({"mixed": [1, 2.5, None, "x", math.nan]}, "result.mixed[4] is NaN"),
        ({"numpy": np.float64("nan")}, "result.numpy is NaN"),
        ({"numpy": np.float32("nan")}, "result.numpy is NaN"),
        ({"numpy": [0.5, np.float16("inf")]}, "result.numpy[1] is Infinity"),
        (
            {"numpy": {"boxes": np.array([[1.0, 2.0], [3.0, -math.inf]])}},
            "result.numpy.boxes[1][1] is -Infinity",
        ),
        ({"numpy": [np.array([1.0]), np.array(math.nan)]}, "result.numpy[1] is NaN"),
        ({"numpy": [0.5, np.array([math.nan])]}, "result.numpy[1][0] is NaN"),
        ({"objects": np.array([None, {"a": math.nan}])}, "result.objects[1].a is NaN"),
        ({"torch": torch.tensor([1.0, math.nan])}, "result.torch[1] is NaN"),
        ({"score": Score(np.float32("nan"))}, "result.score.value is NaN"),  # type: ignore[arg-type]
        ({"odd": {np.float32("nan"): 1}}, "result.odd has the key NaN"),
        ({"score": Score(math.nan)}, "result.score.value is NaN"),
        ({"odd": {math.nan: 1}}, "result.odd has the key NaN"),
    ],
)
def test_a_number_that_json_does_not_have_is_an_error_that_names_the_field(
    tmp_path: Path, output: dict[str, Any], place: str
) -> None:
    returning = type("Returning", (ShoutHandler,), {"postprocess": lambda self, *_: output})
    error = Bench(tmp_path, handler=returning).error_of({"text": "hello"})
    assert (error["code"], error["retryable"]) == ("INFERENCE_FAILED", False)
    assert place in error["message"]


@pytest.mark.parametrize(
    "output",
    [
        {"huge": [1e308, 1e308, -1e308]},
        {"big": [0.5, 10**400]},
        {"deep": [[[]]], "none": None, "text": "nan"},
        {"numpy": np.array([1.0, 2.0]), "int": np.int64(3), "text": np.str_("nan"), "flag": np.bool_(True)},
        {"time": np.datetime64("NaT"), "size one": [0.5, np.array([0.5])]},
    ],
)
def test_numbers_however_large_are_no_error(tmp_path: Path, output: dict[str, Any]) -> None:
    returning = type("Returning", (ShoutHandler,), {"postprocess": lambda self, *_: output})
    result = Bench(tmp_path, handler=returning).infer({"text": "hello"})
    assert result["success"], result["error"]


def test_what_is_missing_of_media_comes_into_the_metadata_whatever_the_engine(tmp_path: Path) -> None:
    class Cut(ShoutHandler):
        def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
            return {**super().preprocess(data, options), "truncated": "its end"}

    result = Bench(tmp_path, handler=Cut).infer({"text": "hello"})
    assert result["result"]["metadata"] == {"length": 5, "truncated": "its end"}
