"""Answers one request: resolve, fetch, preprocess, infer, postprocess; the same for Kafka, HTTP and Python."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from engines.base import Emit
from engines.inference import InferenceManager
from engines.prepared import Prepared
from engines.results import failure_result, success_result
from handlers.errors import DeadlineExceeded, InferenceError, as_inference_error
from handlers.media import Media
from streams.dispatch import Dispatcher
from streams.logs import request_context
from streams.media import MediaFetcher
from streams.memory import ByteBudget
from streams.messages import Request

log = structlog.get_logger(__name__)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Pools:
    """The threads that blocking stages run in, one pool a kind so that a slow kind starves no other."""

    registry: Executor
    decode: Executor


class Pipeline:
    """Turns requests into results; never raises for a request that fails.

    Lives on one event loop. Blocking stages run in `pools`, fetching in the fetcher's own threads and engine
    calls in the dispatcher's, so the loop stays free. Owns nothing it is given.
    """

    def __init__(
        self,
        *,
        manager: InferenceManager,
        fetcher: MediaFetcher,
        dispatcher: Dispatcher,
        pools: Pools,
        memory: ByteBudget,
        worker: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._manager = manager
        self._fetcher = fetcher
        self._dispatcher = dispatcher
        self._pools = pools
        self._memory = memory
        self._worker = worker
        self._clock = clock
        self._wall_clock = wall_clock

    async def answer(
        self, request: Request, *, queue_s: float = 0.0, attempt: int = 1, emit: Emit | None = None
    ) -> dict[str, Any]:
        """Return the result for `request`, in the shape of the spec, success or failure.

        `queue_s` is how long the request lay in its topic or socket before this call. `emit` hears the answer
        as it grows, in a thread of the engine, where the engine can tell; a cancelled call stops the work.
        """
        with request_context(request_id=request.id, task=request.task, model=request.model_name):
            return await self._answer(request, queue_s, attempt, emit)

    async def _answer(
        self, request: Request, queue_s: float, attempt: int, emit: Emit | None
    ) -> dict[str, Any]:
        started = self._clock()
        prepared: Prepared | None = None
        output: dict[str, Any] | None = None
        failure: InferenceError | None = None
        try:
            async with asyncio.timeout(self._seconds_left(request)) as limit:
                prepared = await self._admit(request)
                output = await self._run(request, prepared, emit)
        except TimeoutError as error:
            failure = self._expired(request) if limit.expired() else self._unexpected(request, error)
        except InferenceError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - logged, and the caller is told
            failure = self._unexpected(request, error)
        processing_s = self._clock() - started
        timings = {"queue": queue_s, **(prepared.timings if prepared else {})}
        self._manager.statistics.record(
            request.task, request.model_name, request.engine, failure is None, processing_s, timings
        )
        about: dict[str, Any] = {
            "id": request.id,
            "task": request.task,
            "engine": request.engine,
            "model_name": request.model_name,
            "model_version": prepared.model.version if prepared else None,
            "processing_s": processing_s,
            "timings": timings,
            "metadata": request.metadata,
            "attempt": attempt,
            "worker": self._worker,
        }
        if failure is not None:
            return failure_result(error=failure, **about)
        assert output is not None
        return success_result(result=output, **about)

    async def _admit(self, request: Request) -> Prepared:
        return await self._in(
            self._pools.registry,
            lambda: self._manager.admit(
                task=request.task,
                engine=request.engine,
                model_name=request.model_name,
                options=request.options,
            ),
        )

    async def _run(self, request: Request, prepared: Prepared, emit: Emit | None) -> dict[str, Any]:
        """Take an admitted request through fetch, preprocess, infer and postprocess."""
        fields = prepared.handler.media_fields
        async with self._memory.holding() as holding:
            started = self._clock()
            data = await self._fetcher.aresolve(request.data, fields, deadline_s=self._seconds_left(request))
            holding.add(_media_bytes(data, fields))
            prepared.timings["fetch"] = self._clock() - started
            await self._in(self._pools.decode, lambda: self._manager.preprocess(prepared, data))
            raw = await self._dispatcher.run(prepared, emit)
        if isinstance(raw, InferenceError):
            raise raw
        return await self._in(self._pools.decode, lambda: self._manager.finish(prepared, raw))

    async def _in(self, pool: Executor, call: Callable[[], R]) -> R:
        # Along with the context, in which log lines find the request they are about.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(call))

    def _seconds_left(self, request: Request) -> float | None:
        deadline = request.deadline_at()
        if deadline is None:
            return None
        left = deadline - self._wall_clock()
        if left <= 0:
            raise self._expired(request)
        return left

    def _expired(self, request: Request) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the deadline {request.deadline} has passed; send the request earlier or with a later deadline"
        )

    def _unexpected(self, request: Request, error: Exception) -> InferenceError:
        log.error("request_failed_unexpectedly", id=request.id, task=request.task, exc_info=error)
        return as_inference_error(error)


def _media_bytes(data: dict[str, Any], fields: tuple[str, ...]) -> int:
    """Return how many bytes the fetched media in `fields` of `data` hold."""
    values = [value for name in fields for value in _listed(data.get(name))]
    return sum(len(value.content) for value in values if isinstance(value, Media))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
