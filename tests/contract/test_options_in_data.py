"""top_k, num_frames and every_s in the data, as the table of tasks writes them: the answer is that of the option."""

from __future__ import annotations

from typing import Any

import pytest

from engines.inference import InferenceManager
from streams.messages import Request
from tests.contract.bench import assert_answered, assert_refused, pipeline_over
from tests.contract.cases import CASES

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize(
    ("name", "options"),
    [("sound", {"top_k": 2}), ("movement", {"top_k": 1, "num_frames": 12}), ("movement", {"every_s": 0.3})],
)
def test_the_answer_is_that_of_the_option(manager: InferenceManager, name: str, options: dict[str, Any]) -> None:
    case = BY_NAME[name]
    by_option = assert_answered(case, manager.infer(**case.request(options=options)))
    by_data = assert_answered(case, manager.infer(**case.request(data={**case.data(), **options})))
    assert by_data == by_option
    assert by_data != assert_answered(case, manager.infer(**case.request()))


async def test_the_pipeline_takes_them_as_a_python_call_does(manager: InferenceManager) -> None:
    case = BY_NAME["sound"]
    asked = case.request(data={**case.data(), "top_k": 1})
    async with pipeline_over(manager) as pipeline:
        result = await pipeline.answer(Request(id="a-1", **asked))
    assert len(assert_answered(case, result)["labels"]) == 1


@pytest.mark.parametrize(
    ("name", "data", "options", "code", "told"),
    [
        ("sound", {"top_k": -1}, {}, "INVALID_INPUT", "data.top_k is -1"),
        ("sound", {"top_k": 1}, {"top_k": 2}, "INVALID_OPTION", "data.top_k is 1 and options.top_k is 2"),
        ("movement", {"num_frames": 2, "every_s": 1}, {}, "INVALID_OPTION", "num_frames and every_s both"),
        ("movement", {"num_frames": 2}, {"every_s": 1}, "INVALID_OPTION", "num_frames and every_s both"),
    ],
)
def test_a_wrong_one_is_refused(
    manager: InferenceManager, name: str, data: dict[str, Any], options: dict[str, Any], code: str, told: str
) -> None:
    case = BY_NAME[name]
    request = case.request(data={**case.data(), **data}, options=options)
    assert_refused(manager.infer(**request), {code}, names=told)
