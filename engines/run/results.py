"""The one place that knows the shape of a result: what Kafka, HTTP and a Python call all answer with."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict, Unpack

from handlers.errors import InferenceError

STAGES = ("queue", "resolve", "fetch", "preprocess", "wait", "infer", "postprocess")
"""Stages of one request, in order; the keys of `timings`."""

no_time = dict.fromkeys(STAGES, 0.0).copy
"""Returns new timings in which every stage took 0 seconds, as one does that is not reached."""


def failed_in(
    stage: str, timings: Mapping[str, float], processing_s: float, *, running_s: float = 0.0
) -> dict[str, float]:
    """Return the timings of a request that failed in `stage`: what no stage has counted so far is its time.

    Where it failed while it waited for its engine, `running_s` is how long that has been at work on it.
    """
    left = max(0.0, processing_s - (sum(timings.values()) - timings["queue"]))
    infer_s = min(left, running_s) if stage == "wait" and not timings["infer"] else 0.0
    made = {**timings, "infer": timings["infer"] + infer_s}
    made[stage] += left - infer_s
    return made


class _Asked(TypedDict):
    """What every result says of its request; `processing_s` is in seconds."""

    task: str
    engine: str
    model_name: str
    processing_s: float


class About(_Asked, total=False):
    """What a result says of its request and of how it went.

    `timings` holds the seconds of every stage, as `no_time` begins them; the result takes them over.
    """

    id: str
    model_version: str | None
    metadata: Mapping[str, Any] | None
    timings: dict[str, float] | None
    attempt: int
    worker: str | None


@cache
def worker_name() -> str:
    """Return the name results carry in `worker`: this host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def success_result(*, result: Mapping[str, Any], **about: Unpack[About]) -> dict[str, Any]:
    """Return the result of an answered request; `result` is the task's output."""
    return result_of(result, **about)


def failure_result(*, error: InferenceError, **about: Unpack[About]) -> dict[str, Any]:
    """Return the result of a request that failed with `error`."""
    return result_of(error, **about)


def result_of(
    outcome: Mapping[str, Any] | InferenceError,
    *,
    task: str,
    engine: str,
    model_name: str,
    processing_s: float,
    id: str = "",
    model_version: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    timings: dict[str, float] | None = None,
    attempt: int = 1,
    worker: str | None = None,
) -> dict[str, Any]:
    """Return the result of a request that ended with the task's output, or with an error."""
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    if isinstance(outcome, InferenceError):
        error = {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
    else:
        output = {**outcome, "metadata": outcome.get("metadata") or {}}
    return {
        "success": error is None,
        "id": id,
        "task": task,
        "engine": engine,
        "model_name": model_name,
        "model_version": model_version,
        "result": output,
        "error": error,
        "processing_time": processing_s,
        "timestamp": time.time(),
        "timings": no_time() if timings is None else timings,
        "metadata": metadata or {},
        "attempt": attempt,
        "worker": worker_name() if worker is None else worker,
    }
