"""The stages of a request that its handler runs: preprocess and postprocess."""

from __future__ import annotations

import time
from typing import Any

from engines.run.job import Job
from engines.run.json_form import first_wrong
from handlers.base import NOTES, BaseModelHandler
from handlers.errors import InferenceError, InferenceFailed, InternalError, InvalidInput, as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)


def preprocess(job: Job, data: dict[str, Any]) -> None:
    """Set `job`'s inputs to what its handler makes of `data`, whose media are fetched by now.

    Raises:
        InferenceError: any kind of handlers.errors about the data; nothing else.
    """
    started = time.perf_counter()
    try:
        job.inputs = _inputs(job.handler, job.task, data, job.options)
        # A custom engine may return anything, and a value that is not a number would stop the batches of all.
        job.cost = float(job.engine.cost(job.task, job.inputs, job.options))
    except InferenceError:
        raise
    except BaseException as error:
        raise stage_failed("preprocess", job.task, error) from error
    finally:
        job.timings["preprocess"] = time.perf_counter() - started


def postprocess(job: Job, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the task's output for the engine's raw result.

    `truncated` among the handler's inputs, which says what is missing of the media, is copied to the metadata.

    Raises:
        InternalError: permanent; the handler cannot read what the engine returned.
        InferenceFailed: permanent; the output holds NaN or an infinity.
        InferenceError: whatever else the handler raises of that tree.
    """
    started = time.perf_counter()
    try:
        output: Any = job.handler.postprocess(raw, job.options)
    except InferenceError:
        raise
    except BaseException as error:
        raise stage_failed("postprocess", job.task, error) from error
    finally:
        job.timings["postprocess"] = time.perf_counter() - started
    if not isinstance(output, dict):
        raise _no_dict(job.task, output, "from postprocess; it must return a dict")
    metadata = output.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise _no_dict(job.task, metadata, "as metadata; it must be a dict")
    if wrong := first_wrong(output, "result", is_number=True):
        raise InferenceFailed(
            f"{wrong}, which JSON does not have: model {job.model.key} of engine {job.engine_name} or the "
            f"handler of task {job.task} computed no finite number; try another input, or load the model in "
            "a wider number format (torch_dtype fp32)"
        )
    if notes := {name: job.inputs[name] for name in NOTES if job.inputs.get(name)}:
        return {**output, "metadata": {**notes, **(metadata or {})}}
    checked: dict[str, Any] = output
    return checked


def stage_failed(stage: str, task: str, error: BaseException) -> InferenceError:
    """Return the InferenceError for `error`, which is logged with its stack trace.

    Raises:
        BaseException: `error`, where a signal to this process raised it.
    """
    failure = as_inference_error(error, f"in {stage} of task {task}")
    log.error("stage_failed", stage=stage, task=task, exc_info=error)
    return failure


def _inputs(handler: BaseModelHandler, task: str, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the handler's inputs for `data`, all of whose fields it must read."""
    try:
        inputs: Any = handler.preprocess(data, options)  # of custom handlers the type hint may be wrong
    except ValueError as error:
        # The usual Python error for a wrong value; custom handlers may not use InvalidInput.
        log.warning("preprocess_refused", task=task, exc_info=True)
        raise InvalidInput(f"task {task} does not take this data: {error}") from error
    # Afterwards, as what the handler says of a field that is missing helps more.
    handler.refuse_unknown_fields(data)
    if not isinstance(inputs, dict):
        raise _no_dict(task, inputs, "from preprocess; it must return a dict")
    return dict(inputs)


def _no_dict(task: str, got: Any, where: str) -> InternalError:
    return InternalError(f"the handler of task {task} returned {type(got).__name__} {where}")
