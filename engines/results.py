"""The one place that knows the shape of a result: what Kafka, HTTP and a Python call all answer with."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict, Unpack

from handlers.errors import InferenceError

STAGES = ("queue", "fetch", "preprocess", "wait", "infer", "postprocess")
"""Stages of one request, in order; the keys of `timings`."""


class _Asked(TypedDict):
    """What every result says of its request; `processing_s` is in seconds."""

    task: str
    engine: str
    model_name: str
    processing_s: float


class About(_Asked, total=False):
    """What a result says of its request and of how it went; `timings` holds seconds by stage."""

    id: str
    model_version: str | None
    metadata: Mapping[str, Any] | None
    timings: Mapping[str, float] | None
    attempt: int
    worker: str | None


@cache
def worker_name() -> str:
    """Return the name results carry in `worker`: this host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def success_result(*, result: Mapping[str, Any], **about: Unpack[About]) -> dict[str, Any]:
    """Return the result of an answered request; `result` is the task's output."""
    return _result({**result, "metadata": dict(result.get("metadata") or {})}, None, about)


def failure_result(*, error: InferenceError, **about: Unpack[About]) -> dict[str, Any]:
    """Return the result of a request that failed with `error`."""
    told = {"code": error.code, "message": error.message, "retryable": error.retryable}
    return _result(None, told, about)


def all_stages(timings: Mapping[str, float] | None) -> dict[str, float]:
    """Return `timings` with every stage in order; a stage that was not reached took 0 seconds."""
    known = timings or {}
    return {stage: known.get(stage, 0.0) for stage in STAGES}


def _result(output: dict[str, Any] | None, error: dict[str, Any] | None, about: About) -> dict[str, Any]:
    worker = about.get("worker")
    return {
        "success": error is None,
        "id": about.get("id", ""),
        "task": about["task"],
        "engine": about["engine"],
        "model_name": about["model_name"],
        "model_version": about.get("model_version"),
        "result": output,
        "error": error,
        "processing_time": about["processing_s"],
        "timestamp": time.time(),
        "timings": all_stages(about.get("timings")),
        "metadata": dict(about.get("metadata") or {}),
        "attempt": about.get("attempt", 1),
        "worker": worker_name() if worker is None else worker,
    }
