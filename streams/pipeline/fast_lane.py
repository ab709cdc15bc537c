"""Drives requests through the pipeline without an asyncio task, as long as they wait only for their batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from engines.log_context import shared_task, turn
from engines.run.job import Alike, Outcome
from engines.run.results import Result
from streams.faults import supervised
from streams.messages import Request
from streams.pipeline.batch_queue import BatchEntry
from streams.pipeline.batcher import Batcher
from streams.pipeline.pipeline import Pipeline, Wants, job_of

OnResult = Callable[[Result], None]


class FastLane:
    """Drives the walks of jobs by callbacks; a job that must wait for something else gets a task.

    For a short request a task, its futures and its turns of the event loop cost more than all the work on it. Lives
    on the event loop of its parts.
    """

    def __init__(self, pipeline: Pipeline, batcher: Batcher) -> None:
        self.pipeline = pipeline
        self.batcher = batcher
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self,
        request: Request,
        on_result: OnResult,
        *,
        queue_s: float,
        traceparent: str | None = None,
        alike: Alike,
    ) -> Run:
        """Start on `request`; `alike` is shared by all requests of the same moment.

        `on_result` is called once, on the event loop, with the result that `Pipeline.answer` would return; perhaps
        before this returns. It must not raise.
        """
        job = job_of(request, queue_s=queue_s, traceparent=traceparent, alike=alike)
        run = Run(job, lane=self, on_result=on_result)
        if job.has_task:
            self.give_task(run)
        else:
            run.walk = self.pipeline.walk(job)
            run.go_on(None)
        return run

    async def close(self) -> None:
        """Abandon the requests that have tasks: their results never come."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def give_task(self, run: Run) -> None:
        run.job.has_task, run.job.alike = True, None
        run.task = task = supervised(shared_task(run.to_its_end(), name="request"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Run(BatchEntry, kw_only=True, eq=False):
    """A job on its way, without a task as long as it waits only for its batch."""

    lane: FastLane
    on_result: OnResult
    walk: Coroutine[Wants, Any, Outcome] | None = None
    """None where a task runs it from the start."""
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None

    def give_up(self) -> bool:
        """Stop work on the job, unless an engine has begun; return whether it was stopped."""
        return not self.job.has_begun and self.cancel()

    def cancel(self) -> bool:
        """Stop work on the job: no result will come. Call it only before the result has come."""
        self.is_cancelled = self.is_over = self.job.is_given_up = True
        if self.task is not None:
            self.task.cancel()
        return True

    def go_on(self, came: Any) -> None:
        """Resume the walk with what came, None at its start, and drive it as far as possible."""
        job = self.job
        turn.request = job.name
        try:
            wants = self.walk.send(came)  # type: ignore[union-attr]
            if wants is Wants.BATCH:
                self.lane.batcher.put(self)
            else:
                self.lane.give_task(self)
            return
        except StopIteration as ended:
            result = self.lane.pipeline.finish(job, ended.value)
        except BaseException as error:  # noqa: BLE001 - its caller is told, and what is unexpected is logged
            # Not in a variable of this frame, which the error's traceback refers to: that would be a reference cycle.
            result = self.lane.pipeline.finish(job, error)
        finally:
            turn.request = None
        self.on_result(result)

    async def to_its_end(self) -> None:
        """Finish the walk in this task."""
        rest = None if self.walk is None else _rest_of(self.walk)
        result = await self.lane.pipeline.see_through(self.job, rest)
        if not self.is_cancelled:
            self.on_result(result)


@coroutine
def _rest_of(walk: Coroutine[Any, Any, Outcome]) -> Generator[Any, Any, Outcome]:
    """Return the rest of a walk that may have begun, in a form that can be awaited."""
    outcome: Outcome = yield from walk
    return outcome
