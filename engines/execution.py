"""Runs prepared requests on their leased model: a batch at once, or one by one as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import structlog

from engines.base import BaseEngine, Emit
from engines.bisection import bisected
from engines.log_context import RequestName, working_on
from engines.model_cache import Lease, ModelCache
from engines.model_loading import ModelListener, ModelLoading
from engines.models import ModelManager
from engines.prepared import Outcome, Prepared
from engines.resolved_model import ResolvedModel
from handlers.errors import (
    Busy,
    Cancelled,
    EngineUnavailable,
    InferenceError,
    InternalError,
    as_inference_error,
)

log = structlog.get_logger(__name__)


class Execution:
    """Loads what a request needs, leases it for as long as the engine works, and tells what came of it.

    Thread-safe; both ways block while a model is loaded, and neither ever raises for a request that fails.
    """

    def __init__(
        self, cache: ModelCache, models: ModelManager, on_model: ModelListener | None = None
    ) -> None:
        self._cache = cache
        self._models = models
        self._on_model = on_model

    def run(self, batch: Sequence[Prepared]) -> list[Outcome]:
        """Run requests of one `batch_key` together and return one outcome per request, in order.

        The model is loaded where it is not in memory, and stays leased until the engine is done; nothing else
        runs on it meanwhile.
        """
        if not batch:
            return []
        with working_on(_names(batch)):
            return self._run_named(batch)

    def _run_named(self, batch: Sequence[Prepared]) -> list[Outcome]:
        first = batch[0]
        loading = self._loading(first)
        started = time.perf_counter()
        try:
            with self._cache.lease(loading.key, loading.load, loading.unload) as model:
                running = time.perf_counter()
                try:
                    outcomes = self._run(model, batch)
                finally:
                    ended = time.perf_counter()
                    wait_s, infer_s = running - started, ended - running
                    for one in batch:
                        timings = one.timings
                        timings["wait"] += wait_s
                        timings["infer"] = infer_s
            return outcomes
        except BaseException as error:  # noqa: BLE001 - logged, and every caller is told
            return [_as_failure(error, first)] * len(batch)

    def start(self, prepared: Prepared, emit: Emit | None = None) -> Future[Outcome]:
        """Start one request whose `is_continuous`, beside those under way; blocks only to load its model.

        The future ends with the outcome, never with an exception; cancelling it stops the work. `emit` hears
        the answer piece by piece, in a thread of the engine.
        """
        with working_on(prepared.names):
            return self._start_named(prepared, emit)

    def _start_named(self, prepared: Prepared, emit: Emit | None) -> Future[Outcome]:
        started = time.perf_counter()
        loading = self._loading(prepared)
        lease: Lease | None = None
        try:
            lease = self._cache.share(loading.key, loading.load, loading.unload)
            running = time.perf_counter()
            prepared.waited(running - started)
            raw = prepared.runner.submit(
                lease.model, prepared.inputs, prepared.options, emit, urgency=prepared.urgency
            )
        except BaseException as error:  # noqa: BLE001 - logged, and every caller is told
            if lease is not None:
                lease.release()
            failed: Future[Outcome] = Future()
            failed.set_result(_as_failure(error, prepared))
            return failed
        return _follow(raw, prepared, lease, running)

    def load(self, task: str, engine: str, model: ResolvedModel, runner: BaseEngine) -> Lease:
        """Load a model before anybody asks for it, and return a lease on it.

        Raises:
            InferenceError: what loading raises of that tree.
        """
        loading = ModelLoading(engine, task, model, runner, self._models, self._on_model)
        return self._cache.share(loading.key, loading.load, loading.unload)

    def is_loaded(self, prepared: Prepared) -> bool:
        """Return whether the model of `prepared` is in memory, so that it can run without a load."""
        return self._cache.is_loaded(self._loading(prepared).key)

    def _run(self, model: Any, batch: Sequence[Prepared]) -> list[Outcome]:
        """Run a batch; where the engine raises, rather than tell which request failed, find that out."""
        runner = batch[0].runner

        def run(some: Sequence[Prepared]) -> list[Outcome]:
            try:
                with working_on(_names(some)):
                    outcomes = runner.infer_batch(
                        model, [one.inputs for one in some], [one.options for one in some]
                    )
            except (EngineUnavailable, Busy) as error:
                return [error] * len(some)  # no fault of any of them
            return _one_outcome_each(outcomes, some)

        def failed(some: Sequence[Prepared], error: BaseException) -> Outcome:
            if len(some) > 1:
                log.warning("batch_failed", model=some[0].model.key, items=len(some), error=repr(error))
            return _as_failure(error, some[0]) if len(some) == 1 else as_inference_error(error)

        return bisected(run, batch, failed=failed)

    def _loading(self, prepared: Prepared) -> ModelLoading:
        return ModelLoading(
            prepared.engine, prepared.task, prepared.model, prepared.runner, self._models, self._on_model
        )


def _names(batch: Sequence[Prepared]) -> list[RequestName]:
    return [one.request for one in batch if one.request is not None]


def _follow(raw: Future[Any], prepared: Prepared, lease: Lease, running: float) -> Future[Outcome]:
    """Return a future of the outcome that passes its cancellation on, and lets go of the model in the end."""
    outcome: Future[Outcome] = Future()

    def on_raw(done: Future[Any]) -> None:
        lease.release()
        prepared.claim = None  # the two futures refer to each other, so the request may outlive its answer
        prepared.timings["infer"] = time.perf_counter() - running
        if outcome.set_running_or_notify_cancel():
            with working_on(prepared.names):  # this is a thread of the engine's, which works for many
                made = _outcome(done, prepared)
            outcome.set_result(made)

    def on_outcome(done: Future[Outcome]) -> None:
        if done.cancelled():
            raw.cancel()

    raw.add_done_callback(on_raw)
    outcome.add_done_callback(on_outcome)
    return outcome


def _outcome(done: Future[Any], prepared: Prepared) -> Outcome:
    try:
        found = done.result()
    except CancelledError:
        return Cancelled(f"engine {prepared.engine} dropped the request; send it again")
    except BaseException as error:  # noqa: BLE001 - logged, and the caller is told
        return _as_failure(error, prepared)
    return _checked(found, prepared.engine)


def _one_outcome_each(outcomes: Sequence[Any], batch: Sequence[Prepared]) -> list[Outcome]:
    """Return the outcomes where there is one of the right kind for each request, else errors that say so."""
    engine = batch[0].engine
    if len(outcomes) != len(batch):
        wrong = InternalError(f"engine {engine} returned {len(outcomes)} outcomes for {len(batch)} requests")
        return [wrong] * len(batch)
    return [_checked(outcome, engine) for outcome in outcomes]


def _checked(outcome: Any, engine: str) -> Outcome:
    if isinstance(outcome, (dict, InferenceError)):
        return outcome
    return InternalError(
        f"engine {engine} returned {type(outcome).__name__} for a request; it must be a dict"
    )


def _as_failure(error: BaseException, prepared: Prepared) -> InferenceError:
    failure = as_inference_error(error)
    if failure is not error:
        log.error(
            "execute_failed",
            task=prepared.task,
            engine=prepared.engine,
            model=prepared.model.key,
            exc_info=error,
        )
    return failure
