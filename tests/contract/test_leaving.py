"""Requests that are withdrawn, or whose deadline passes: the work ends and nobody else is harmed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from engines.base import Emit
from engines.inference import InferenceManager
from streams.messages import Request
from tests.contract.bench import assert_answered, assert_refused, leases_on, pipeline_over, taken
from tests.contract.cases import CASES, Case

PATIENCE_S = 30.0

every_case = pytest.mark.parametrize("case", CASES, ids=str)


class Work:
    """A request's work on a busy model: `emit` goes with the request, `is_under_way` says that it waits there."""

    def __init__(self, manager: InferenceManager, case: Case) -> None:
        self._manager, self._case = manager, case
        self._heard, self.gate = threading.Event(), threading.Event()
        runner = manager.engines.get(case.engine)
        self.is_continuous = case.task in runner.continuous_tasks

    @property
    def emit(self) -> Emit | None:
        return self._hear if self.is_continuous else None

    @property
    def is_under_way(self) -> bool:
        return self._heard.is_set() if self.is_continuous else leases_on(self._manager, self._case) > 1

    def _hear(self, piece: str) -> None:
        """Keep the engine from going on, as no listener may, so that the answer cannot be there first."""
        self._heard.set()
        self.gate.wait(PATIENCE_S)


@contextmanager
def busy(manager: InferenceManager, case: Case) -> Iterator[Work]:
    """Have the model of `case` busy during the block: no request on it gets done."""
    manager.infer(**case.request())
    work = Work(manager, case)
    try:
        if work.is_continuous:
            yield work
        else:
            with taken(manager, case):
                yield work
    finally:
        work.gate.set()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@every_case
async def test_a_cancelled_request_leaves_at_once_and_the_next_is_answered(
    manager: InferenceManager, case: Case
) -> None:
    async with pipeline_over(manager) as pipeline:
        with busy(manager, case) as work:
            answer = asyncio.create_task(pipeline.answer(Request(**case.request()), emit=work.emit))
            await until(lambda: work.is_under_way)
            answer.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(PATIENCE_S):
                    await answer
        await until(lambda: leases_on(manager, case) == 0)
        assert_answered(case, await pipeline.answer(Request(**case.request(), id="next")))


@every_case
async def test_a_request_cancelled_before_it_started_costs_nothing(manager: InferenceManager, case: Case) -> None:
    async with pipeline_over(manager) as pipeline:
        neighbour = asyncio.create_task(pipeline.answer(Request(**case.request(), id="neighbour")))
        answer = asyncio.create_task(pipeline.answer(Request(**case.request())))
        await asyncio.sleep(0)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert_answered(case, await neighbour)
    await until(lambda: leases_on(manager, case) == 0)


@every_case
@pytest.mark.parametrize("deadline", [1.0, "2020-01-31T12:00:00+01:00"])
async def test_a_deadline_that_has_passed_ends_a_request_before_it_starts(
    manager: InferenceManager, case: Case, deadline: float | str
) -> None:
    async with pipeline_over(manager) as pipeline:
        result = await pipeline.answer(Request(**case.request(), deadline=deadline, id="late"))
    assert_refused(result, {"DEADLINE_EXCEEDED"}, names="deadline")
    assert result.timings["infer"] == 0


@every_case
async def test_a_deadline_ends_a_request_that_waits_or_runs(manager: InferenceManager, case: Case) -> None:
    async with pipeline_over(manager) as pipeline:
        with busy(manager, case) as work:
            request = Request(**case.request(), deadline=time.time() + 0.5, id="late")
            result = await pipeline.answer(request, emit=work.emit)
            assert_refused(result, {"DEADLINE_EXCEEDED"}, names="deadline")
        await until(lambda: leases_on(manager, case) == 0)
        assert_answered(case, await pipeline.answer(Request(**case.request(), id="next")))
