"""What handlers may return and raise, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.engines.parts import Bench, ShoutHandler


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("text", ["preprocess-bug", "postprocess-bug"])
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
