"""The one place that knows the shape of a result: what Kafka, HTTP and a Python call all answer with."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from handlers.errors import InferenceError

STAGES = ("queue", "fetch", "preprocess", "wait", "infer", "postprocess")
"""Stages of one request, in order; the keys of `timings`."""


@cache
def worker_name() -> str:
    """Return the name results carry in `worker`: this host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def success_result(
    *,
    result: Mapping[str, Any],
    task: str,
    engine: str,
    model_name: str,
    processing_s: float,
    id: str = "",
    model_version: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    attempt: int = 1,
    worker: str | None = None,
) -> dict[str, Any]:
    """Return the result of an answered request; `result` is the task's output, all times are in seconds."""
    return {
        "success": True,
        "id": id,
        "task": task,
        "engine": engine,
        "model_name": model_name,
        "model_version": model_version,
        "result": {**result, "metadata": dict(result.get("metadata") or {})},
        "error": None,
        "processing_time": processing_s,
        "timestamp": time.time(),
        "timings": all_stages(timings),
        "metadata": dict(metadata or {}),
        "attempt": attempt,
        "worker": worker_name() if worker is None else worker,
    }


def failure_result(
    *,
    error: InferenceError,
    task: str,
    engine: str,
    model_name: str,
    processing_s: float,
    id: str = "",
    model_version: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    attempt: int = 1,
    worker: str | None = None,
) -> dict[str, Any]:
    """Return the result of a request that failed with `error`; all times are in seconds."""
    return {
        "success": False,
        "id": id,
        "task": task,
        "engine": engine,
        "model_name": model_name,
        "model_version": model_version,
        "result": None,
        "error": {"code": error.code, "message": error.message, "retryable": error.retryable},
        "processing_time": processing_s,
        "timestamp": time.time(),
        "timings": all_stages(timings),
        "metadata": dict(metadata or {}),
        "attempt": attempt,
        "worker": worker_name() if worker is None else worker,
    }


def all_stages(timings: Mapping[str, float] | None) -> dict[str, float]:
    """Return `timings` with every stage in order; a stage that was not reached took 0 seconds."""
    known = timings or {}
    return {stage: known.get(stage, 0.0) for stage in STAGES}
