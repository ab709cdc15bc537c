"""Answers requests that have to wait for nothing but their batch, without a task of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec

from engines.base import Urgency
from engines.inference import InferenceManager
from engines.log_context import RequestName, shared_task, turn, working_on
from engines.run.prepared import Outcome, Prepared
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError
from streams.faults import supervised
from streams.messages import Request
from streams.pipeline.batcher import Batcher
from streams.pipeline.pipeline import Pipeline
from streams.pipeline.slow_stages import HeldUp

OnResult = Callable[[dict[str, Any]], None]

_URGENCIES: list[Urgency] = [(-priority, math.inf) for priority in range(10)]
"""By priority; without a deadline."""

Admitted = dict[tuple[str, str, str], Prepared]
"""What requests of one moment share, by task, engine and model name: one of them that was admitted."""


class FastLane:
    """Does what `Pipeline.answer` does, by callbacks, for requests whose way is clear.

    A task, its futures and its turns of the event loop cost a short request more than all that is done for
    it. Lives on the event loop of its parts.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        manager: InferenceManager,
        batcher: Batcher[Prepared],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pipeline = pipeline
        self._manager = manager
        self._batcher = batcher
        self._pace = pipeline.pace
        self._clock = clock

    def start(self, request: Request, queue_s: float, admitted: Admitted, on_result: OnResult) -> bool:
        """Start on `request` and return True, or return False where it may have to wait on its way.

        `on_result` is called once, on the event loop, with what `Pipeline.answer` would have returned; perhaps
        before this returns. It must not raise. `admitted` is one for all requests of the same moment.
        """
        if request.deadline is not None:
            return False
        started = self._clock()
        prepared: Prepared | None = None
        turn.request = request
        try:
            prepared = self._admit(request, admitted)
            if prepared is None:
                return False
            prepared.request = RequestName(request.id, request.task, request.model_name)
            prepared.urgency = _URGENCIES[request.priority]
            self._pace.run(
                type(prepared.handler), "preprocess", self._manager.preprocess, prepared, request.data
            )
            under_way = _UnderWay(self, request, prepared, started, queue_s, on_result)
            self._batcher.put(prepared, under_way.finish)
        except HeldUp:
            return False
        except BaseException as error:  # noqa: BLE001 - its caller is told, and what is unexpected is logged
            # In no variable of this frame, to which the error's traceback leads: that would be a circle.
            result = self.pipeline.result(
                request,
                prepared,
                self.pipeline.as_failure(request, error),
                started,
                queue_s,
                stage="preprocess" if prepared else "resolve",
            )
            on_result(result)
        finally:
            turn.request = None
        return True

    def postprocess(self, request: Request, prepared: Prepared, raw: dict[str, Any]) -> Outcome | None:
        """Return the task's output for the engine's raw result, or why there is none; None where it takes too long."""
        turn.request = request
        try:
            return self._pace.run(type(prepared.handler), "postprocess", self._manager.finish, prepared, raw)
        except HeldUp:
            return None
        except BaseException as error:  # noqa: BLE001 - its caller is told, and what is unexpected is logged
            return self.pipeline.as_failure(request, error)
        finally:
            turn.request = None

    def _admit(self, request: Request, admitted: Admitted) -> Prepared | None:
        """Return the request admitted, None where it may have to wait on its way."""
        key = (request.task, request.engine, request.model_name)
        like = admitted.get(key)
        if like is not None and not request.options:
            return like.another() if self._is_quick(like.handler) else None
        if not self._manager.admits_at_once(request.engine, request.model_name):
            return None
        if not self._pace.is_quick(request.task, "admit"):
            return None
        prepared = self._pace.run(
            request.task,
            "admit",
            self._manager.admit,
            task=request.task,
            engine=request.engine,
            model_name=request.model_name,
            data=request.data,
            options=request.options,
        )
        if not self._is_clear_for(prepared):
            return None
        if not request.options and not prepared.handler.options_in_data:
            admitted[key] = prepared
        return prepared

    def _is_clear_for(self, prepared: Prepared) -> bool:
        handler = prepared.handler
        return not handler.media_fields and not prepared.is_continuous and self._is_quick(handler)

    def _is_quick(self, handler: BaseModelHandler) -> bool:
        return self._pace.is_quick(type(handler), "preprocess", "postprocess")


class _UnderWay(msgspec.Struct, eq=False):
    """A request that waits for its batch."""

    path: FastLane
    request: Request
    prepared: Prepared
    started: float
    queue_s: float
    on_result: OnResult

    def finish(self, outcome: Outcome, wait_s: float) -> None:
        """Take what the engine made of it to its result."""
        self.prepared.timings["wait"] += wait_s
        if not isinstance(outcome, InferenceError):
            made = self.path.postprocess(self.request, self.prepared, outcome)
            if made is None:
                supervised(shared_task(self._finish_in_a_thread(outcome), name="postprocess"))
                return
            outcome = made
        self._end(outcome)

    async def _finish_in_a_thread(self, raw: dict[str, Any]) -> None:
        path, request = self.path, self.request
        with working_on((request,)):
            self._end(await path.pipeline.finish(request, self.prepared, raw))

    def _end(self, outcome: Outcome) -> None:
        result = self.path.pipeline.result(
            self.request, self.prepared, outcome, self.started, self.queue_s, stage="wait"
        )
        self.on_result(result)
