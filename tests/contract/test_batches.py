"""Batches of three with one bad item: its neighbours get what they would get alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engines.config.settings import EngineSettings
from engines.inference import InferenceManager
from engines.registry import EngineRegistry
from engines.run.stages import postprocess
from handlers.errors import InferenceError
from streams.messages import Request
from tests.contract.bench import BAD_MEDIA, assert_answered, assert_readable, assert_refused, pipeline_over
from tests.contract.cases import CASES, Case
from tests.prepared_job import prepared_job

ENGINES = EngineRegistry(EngineSettings())

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def is_continuous(case: Case) -> bool:
    return case.task in ENGINES.get(case.engine).continuous_tasks


def without_metadata(output: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in output.items() if name != "metadata"}


@every_case
def test_an_item_that_the_engine_cannot_run_costs_its_neighbours_nothing(manager: InferenceManager, case: Case) -> None:
    alone = manager.infer(**case.request())["result"]
    batch = [prepared_job(manager, **case.request()) for _ in range(3)]
    batch[1].inputs = {"what is this": object()}
    first, bad, last = manager.execution.run(batch)
    assert isinstance(bad, InferenceError)
    assert_readable(bad.code, bad.message)
    for prepared, outcome in ((batch[0], first), (batch[2], last)):
        assert isinstance(outcome, dict), outcome
        assert without_metadata(postprocess(prepared, outcome)) == without_metadata(alone)


@pytest.mark.parametrize("case", [case for case in CASES if is_continuous(case)], ids=str)
def test_where_items_come_one_by_one_a_bad_one_costs_the_others_nothing(manager: InferenceManager, case: Case) -> None:
    batch = [prepared_job(manager, **case.request()) for _ in range(3)]
    batch[1].inputs = {"what is this": object()}
    first, bad, last = [future.result(60) for future in [manager.execution.start(one) for one in batch]]
    assert isinstance(bad, InferenceError)
    assert_readable(bad.code, bad.message)
    for prepared, outcome in ((batch[0], first), (batch[2], last)):
        assert isinstance(outcome, dict), outcome
        assert case.is_right(postprocess(prepared, outcome))


@every_case
async def test_of_three_requests_at_once_the_bad_one_alone_is_refused(manager: InferenceManager, case: Case) -> None:
    name = (case.media or (*case.texts, *case.data()))[0]
    bad: Any = b"noise" if case.media else "  "
    if isinstance(case.data()[name], list):
        bad = [bad]
    requests = [case.request(), case.with_data(name, bad), case.request()]
    async with pipeline_over(manager) as pipeline:
        first, refused, last = await asyncio.gather(
            *(pipeline.answer(Request(**request, id=f"{index}")) for index, request in enumerate(requests))
        )
    assert_refused(refused, BAD_MEDIA, names=f"data.{name}")
    assert [result.id for result in (first, refused, last)] == ["0", "1", "2"]
    for result in (first, last):
        assert_answered(case, result)
