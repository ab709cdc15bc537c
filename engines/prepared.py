"""A request on its way through the engine, and what must be true of what handlers and engines return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from engines.base import NO_HURRY, BaseEngine, Urgency
from engines.resolved_model import ResolvedModel
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError, InternalError, InvalidInput, as_inference_error

log = structlog.get_logger(__name__)

Outcome = dict[str, Any] | InferenceError
"""What the engine made of one request: its raw result, or why there is none."""


class Prepared(msgspec.Struct, eq=False):
    """A request that passed every check; ready for the engine once `preprocess` gave it its inputs.

    Owned by whoever carries it from `admit` to `finish`, one thread at a time. `timings` collects the seconds
    of each stage on the way: fetch, preprocess, wait (added to, so a queue may add its own), infer,
    postprocess.
    """

    task: str
    engine: str
    model: ResolvedModel
    handler: BaseModelHandler
    runner: BaseEngine
    options: dict[str, Any]
    lane_key: tuple[str, ...]
    """Requests with equal keys use one loaded model, which runs one batch at a time."""
    batch_key: tuple[str, ...]
    """Requests with equal keys may share a batch."""
    claim: object = None
    """What keeps the model's version in memory for this request while another takes its place."""
    inputs: dict[str, Any] = {}
    timings: dict[str, float] = {}
    urgency: Urgency = NO_HURRY
    """The smallest goes first: most urgent priority, then earliest deadline."""
    cost: float = 0.0
    """What it takes of a batch, by `BaseEngine.cost`."""
    most_cost: float = math.inf
    """What a batch may take, by `BaseEngine.max_cost`."""

    @property
    def is_continuous(self) -> bool:
        """Whether the engine takes requests of this task one by one as they come, rather than in batches."""
        return self.task in self.runner.continuous_tasks

    def another(self) -> Prepared:
        """Return another request that the same check admits: of the same names, and without options."""
        return Prepared(
            self.task,
            self.engine,
            self.model,
            self.handler,
            self.runner,
            {},
            self.lane_key,
            self.batch_key,
            self.claim,
        )

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for others, or for the model to be loaded."""
        self.timings["wait"] = self.timings.get("wait", 0.0) + seconds


def stage_failed(stage: str, task: str, error: Exception) -> InferenceError:
    """Return the InternalError that takes the place of `error`, which is logged with its stack trace."""
    log.error("stage_failed", stage=stage, task=task, exc_info=error)
    return as_inference_error(error)


def preprocessed(
    handler: BaseModelHandler, task: str, data: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Return what the handler makes of `data`.

    Raises:
        InvalidInput: permanent; the handler refuses the data, with that error or with a ValueError.
        InternalError: permanent; the handler returned no dict.
    """
    try:
        inputs: Any = handler.preprocess(data, options)  # of people's own handlers, what it says may not hold
    except ValueError as error:
        # How Python code says that a value is wrong; handlers of other people know no InvalidInput.
        log.warning("preprocess_refused", task=task, exc_info=True)
        raise InvalidInput(f"task {task} does not take this data: {error}") from error
    if not isinstance(inputs, dict):
        raise InternalError(
            f"the handler of task {task} returned {type(inputs).__name__} from preprocess; it must return a "
            "dict"
        )
    return dict(inputs)


def one_outcome_each(outcomes: Sequence[Any], batch: Sequence[Prepared]) -> list[Outcome]:
    """Return the outcomes where there is one of the right kind for each request, else errors that say so."""
    engine = batch[0].engine
    if len(outcomes) != len(batch):
        wrong = InternalError(f"engine {engine} returned {len(outcomes)} outcomes for {len(batch)} requests")
        return [wrong] * len(batch)
    return [
        outcome
        if isinstance(outcome, dict | InferenceError)
        else InternalError(
            f"engine {engine} returned {type(outcome).__name__} for a request; it must be a dict"
        )
        for outcome in outcomes
    ]
