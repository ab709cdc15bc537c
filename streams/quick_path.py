"""Answers requests that have to wait for nothing but their batch, without a task of their own."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

from engines.inference import InferenceManager
from engines.prepared import Outcome, Prepared
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError
from streams import batching
from streams.batching import Batcher
from streams.logs import request_at_hand
from streams.messages import Request
from streams.pipeline import Pipeline

OnResult = Callable[[dict[str, Any]], None]

Admitted = dict[tuple[str, str], Prepared]
"""What requests of one moment share, by engine and model name: one of them that was admitted."""


class QuickPath:
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
        self._pipeline = pipeline
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
        request_at_hand.set((request.id, request.task, request.model_name))
        try:
            prepared = self._admit(request, admitted)
            if prepared is None:
                return False
            prepared.urgency = (-request.priority, math.inf)
            try:
                self._manager.preprocess(prepared, request.data)
            finally:
                self._pace.took(prepared.handler, "preprocess", prepared.timings["preprocess"])
            finish = functools.partial(self._finish, request, prepared, started, queue_s, on_result)
            self._batcher.put(prepared, finish)
        except Exception as error:  # noqa: BLE001 - its caller is told, and what is unexpected is logged
            failure = self._pipeline.as_failure(request, error)
            on_result(self._pipeline.result(request, prepared, failure, started, queue_s))
        finally:
            request_at_hand.set(None)
        return True

    def _admit(self, request: Request, admitted: Admitted) -> Prepared | None:
        """Return the request admitted, None where it may have to wait on its way."""
        key = (request.engine, request.model_name)
        like = admitted.get(key)
        if like is not None and not request.options:
            return like.another() if self._is_quick(like.handler) else None
        if not self._manager.admits_at_once(request.engine, request.model_name):
            return None
        prepared = self._manager.admit(
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
        return self._pace.is_quick(handler, "preprocess") and self._pace.is_quick(handler, "postprocess")

    def _finish(
        self,
        request: Request,
        prepared: Prepared,
        started: float,
        queue_s: float,
        on_result: OnResult,
        ran: batching.Outcome,
    ) -> None:
        prepared.waited(ran.wait_s)
        outcome: Outcome = ran.raw
        if not isinstance(outcome, InferenceError):
            request_at_hand.set((request.id, request.task, request.model_name))
            try:
                outcome = self._manager.finish(prepared, outcome)
            except Exception as error:  # noqa: BLE001 - its caller is told, and what is unexpected is logged
                outcome = self._pipeline.as_failure(request, error)
            finally:
                request_at_hand.set(None)
            self._pace.took(prepared.handler, "postprocess", prepared.timings["postprocess"])
        on_result(self._pipeline.result(request, prepared, outcome, started, queue_s))
