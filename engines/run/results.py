"""The result of a request, the same for Kafka, HTTP and Python."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from handlers.errors import InferenceError

STAGES = ("queue", "resolve", "fetch", "preprocess", "wait", "infer", "postprocess")
"""Stages of one request, in order; the keys of `timings`."""

no_time = dict.fromkeys(STAGES, 0.0).copy
"""Returns new timings in which every stage took 0 seconds."""


def failed_in(stage: str, timings: Mapping[str, float], processing_s: float, *, running_s: float) -> dict[str, float]:
    """Return the timings of a request that failed in `stage`, which gets the time that no stage has counted.

    If it failed while it waited for its engine, `running_s` is how long the engine has worked on it.
    """
    left = max(0.0, processing_s - (sum(timings.values()) - timings["queue"]))
    infer_s = min(left, running_s) if stage == "wait" and not timings["infer"] else 0.0
    made = {**timings, "infer": timings["infer"] + infer_s}
    made[stage] += left - infer_s
    return made


class ResultError(msgspec.Struct, frozen=True):
    """Why a request failed: a code of `handlers.errors`, a message, and whether trying again can help."""

    code: str
    message: str
    retryable: bool


class Result(msgspec.Struct, kw_only=True, frozen=True):
    """One answer, success or failure; exactly one of `result` and `error` is set. Times are in seconds."""

    success: bool
    id: str
    task: str
    engine: str
    model_name: str
    model_version: str | None = None
    result: dict[str, Any] | None = None
    error: ResultError | None = None
    processing_time: float
    timestamp: float
    timings: dict[str, float] = {}
    metadata: dict[str, Any] = {}
    attempt: int = 1
    worker: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result as its JSON object, with the values of the output unchanged."""
        error = None if self.error is None else msgspec.structs.asdict(self.error)
        return {**msgspec.structs.asdict(self), "error": error}


@cache
def worker_name() -> str:
    """Return the default of `worker` in results: host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def result_of(
    outcome: Mapping[str, Any] | InferenceError,
    *,
    task: str,
    engine: str,
    model_name: str,
    id: str = "",
    model_version: str | None = None,
    attempt: int = 1,
    processing_s: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
    timings: dict[str, float] | None = None,
    worker: str | None = None,
) -> Result:
    """Return the result of a request that ended with the task's output or an error; takes `timings` over."""
    output: dict[str, Any] | None = None
    error: ResultError | None = None
    if isinstance(outcome, InferenceError):
        error = _told(outcome)
    else:
        output = {**outcome, "metadata": outcome.get("metadata") or {}}
    return Result(
        id=id,
        task=task,
        engine=engine,
        model_name=model_name,
        model_version=model_version,
        success=error is None,
        result=output,
        error=error,
        processing_time=processing_s,
        timestamp=time.time(),
        timings=no_time() if timings is None else timings,
        metadata=dict(metadata) if metadata else {},
        worker=worker_name() if worker is None else worker,
        attempt=attempt,
    )


def refused_result(
    error: InferenceError, *, known: Mapping[str, Any], id: str, task: str = "", worker: str, queue_s: float = 0.0
) -> Result:
    """Return the result of a request that was not admitted; its readable fields, `known`, win over `id` and `task`."""
    return result_of(
        error,
        id=known.get("id") or id,
        task=known.get("task") or task,
        engine=known.get("engine", ""),
        model_name=known.get("model_name", ""),
        timings=no_time() | {"queue": queue_s},
        metadata=known.get("metadata"),
        worker=worker,
    )


def failed_instead(result: Result, error: InferenceError, *, metadata: dict[str, Any] | None = None) -> Result:
    """Return the failure that replaces `result` where that cannot be sent; `metadata` replaces its own."""
    return msgspec.structs.replace(
        result,
        success=False,
        result=None,
        error=_told(error),
        timestamp=time.time(),
        metadata=result.metadata if metadata is None else metadata,
    )


def _told(error: InferenceError) -> ResultError:
    return ResultError(error.code, error.message, error.retryable)
