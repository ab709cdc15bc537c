"""Requests that are resolved and preprocessed, as tests of what runs them take them."""

from __future__ import annotations

from typing import Any

from engines.inference import InferenceManager
from engines.log_context import RequestName
from engines.run.job import Job


def new_job(*, task: str, engine: str = "", model_name: str, **fields: Any) -> Job:
    """Return the job of a request; nothing of it is checked yet."""
    return Job(name=RequestName("an-id", task, model_name), task=task, engine_name=engine, **fields)


def prepared_job(manager: InferenceManager, **request: Any) -> Job:
    """Return a request checked, with its media here and preprocessed, for `execute` or `start`."""
    job, walk = new_job(**request), manager._direct
    for stage in (walk._resolve, walk._fetch, walk._preprocess):
        try:
            stage(job).send(None)
        except StopIteration:
            continue
    return job
