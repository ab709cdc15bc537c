"""A request that was let in, on its way through handler and engine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from engines.base import NO_HURRY, BaseEngine, Urgency
from engines.log_context import RequestName
from engines.models.resolved_model import ModelKey, ResolvedModel
from engines.run.results import no_time
from handlers.base import BaseModelHandler
from handlers.errors import InferenceError

Outcome = dict[str, Any] | InferenceError
"""What the engine made of one request: its raw result, or why there is none."""


class Prepared(msgspec.Struct, eq=False):
    """A request that passed every check; ready for the engine once `preprocess` gave it its inputs.

    Owned by whoever carries it from `admit` to `finish`, one thread at a time. `timings` collects the seconds
    of each stage on the way: resolve, fetch, preprocess, wait (added to, so a queue may add its own), infer,
    postprocess.
    """

    task: str
    engine: str
    model: ResolvedModel
    handler: BaseModelHandler
    runner: BaseEngine
    options: dict[str, Any]
    lane_key: ModelKey
    """Requests with equal keys use one loaded model, which runs one batch at a time."""
    batch_key: tuple[str, ...]
    """Requests with equal keys may share a batch."""
    claim: object = None
    """What keeps the model's version in memory for this request while another takes its place."""
    most_cost: float = math.inf
    """What a batch may take, by `BaseEngine.max_cost`."""
    inputs: dict[str, Any] = {}
    timings: dict[str, float] = msgspec.field(default_factory=no_time)
    urgency: Urgency = NO_HURRY
    """The smallest goes first: most urgent priority, then earliest deadline."""
    cost: float = 0.0
    """What it takes of a batch, by `BaseEngine.cost`."""
    running_since: float | None = None
    """When the engine began with it, by `time.perf_counter`; None before."""
    request: RequestName | None = None
    """What log lines call it, in whichever thread it is worked on."""

    @property
    def is_continuous(self) -> bool:
        """Whether the engine takes requests of this task one by one as they come, rather than in batches."""
        return self.task in self.runner.continuous_tasks

    @property
    def running_s(self) -> float:
        """How long ago the engine began with it, 0 where it has not."""
        return 0.0 if self.running_since is None else time.perf_counter() - self.running_since

    @property
    def names(self) -> Sequence[RequestName]:
        """What log lines call it, as `working_on` takes it."""
        return () if self.request is None else (self.request,)

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
            self.most_cost,
        )

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for others, or for the model to be loaded."""
        self.timings["wait"] += seconds
