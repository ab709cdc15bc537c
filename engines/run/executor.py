"""Runs jobs on their leased model: in a batch, or one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from engines.base import BaseEngine, Emit, bisected, told_of_waiting, unwanted, wanted_while
from engines.cache.loader import ModelListener, ModelLoading
from engines.cache.model_cache import ModelCache
from engines.guard import GivenUp, Guard
from engines.guarded_call import Awaited
from engines.lease import Lease
from engines.log_context import working_on
from engines.models.model_manager import ModelManager
from engines.models.resolved_model import ResolvedModel
from engines.run.job import Job, Outcome
from handlers.errors import (
    Busy,
    Cancelled,
    EngineUnavailable,
    InferenceError,
    InferenceTimeout,
    InternalError,
    as_inference_error,
    counted,
    words_of,
)
from handlers.logger import get_logger

log = get_logger(__name__)


OnOutcome = Callable[[Job, Outcome], None]


class Execution:
    """Loads the model of a request, leases it while the engine works, and returns the outcome.

    Thread-safe; `run` and `start` block while a model loads, and never raise for a request that fails.
    """

    def __init__(self, cache: ModelCache, models: ModelManager, on_model: ModelListener | None, guard: Guard) -> None:
        """`guard` runs the calls of engines, so that one that hangs does not block its caller for long."""
        self._guard = guard
        self._cache = cache
        self._loading_of = partial(ModelLoading, files=models.files, on_model=on_model, guard=self._guard)

    def run(self, batch: Sequence[Job], early: OnOutcome | None = None) -> list[Outcome]:
        """Run requests of one `batch_key` together and return one outcome per request, in order.

        The model is loaded where needed and stays leased until the engine is done; nothing else runs on it meanwhile.
        `early` is called in a thread of the engine with each outcome that is known before the last one.
        """
        with working_on([one.name for one in batch]):
            try:
                return self._run(batch, early) if batch else []
            except BaseException as error:  # noqa: BLE001 - logged, and every caller is told
                return [_as_failure(error, batch[0])] * len(batch)

    def _run(self, batch: Sequence[Job], early: OnOutcome | None) -> list[Outcome]:
        loading = self._loading(batch[0])
        started = time.perf_counter()
        with (lease := self._cache.lease(loading.key, loading.load, loading.unload)):
            if all(one.is_given_up for one in batch):  # while the model was loaded
                return [unwanted()] * len(batch)
            running = time.perf_counter()
            for one in batch:
                one.running_since = running
                one.timings["wait"] += running - started
            told: dict[Job, Outcome] = {}

            def tell(job: Job, outcome: Outcome) -> None:
                if told.setdefault(job, outcome) is not outcome:
                    return  # it was given up just now
                job.timings["infer"] = time.perf_counter() - running
                if early is not None:
                    early(job, outcome)

            try:
                return self._outcomes(lease, batch, told, tell)
            finally:
                infer_s = time.perf_counter() - running
                for one in batch:
                    if one not in told:
                        one.timings["infer"] = infer_s

    def start(self, job: Job, emit: Emit | None = None) -> Future[Outcome]:
        """Start one request whose `is_continuous`, beside those under way; blocks only to load its model.

        The future ends with the outcome, never with an exception; cancelling it stops the work. `emit` is called with
        each piece of the answer, in a thread of the engine.
        """
        loading = self._loading(job)
        with working_on((job.name,)):
            started = time.perf_counter()
            try:
                lease = self._cache.share(loading.key, loading.load, loading.unload)
                running = job.running_since = time.perf_counter()
                job.timings["wait"] += running - started
                raw = self._submit(job, lease, emit)
            except BaseException as error:  # noqa: BLE001 - logged, and every caller is told
                failed: Future[Outcome] = Future()
                failed.set_result(_as_failure(error, job))
                return failed
            following = _Following(raw, job, lease, running)
            self._watch(following)
            return following.outcome

    def _submit(self, job: Job, lease: Lease, emit: Emit | None) -> Future[Any]:
        """Return the engine's future of a request; one that comes too late is cancelled."""
        engine, key = job.engine, self._loading(job).key
        late: list[Future[Any]] = []

        def hear(piece: str) -> None:
            self._guard.sign(key)
            if emit is not None:
                emit(piece)

        def wait() -> Callable[[], None]:
            job.waits_in_engine = True
            return partial(setattr, job, "waits_in_engine", False)

        def submit() -> Future[Any]:
            heard = emit if _tells_signs(engine) else hear
            with told_of_waiting(wait):
                raw = engine.submit(lease.model, job.inputs, job.options, heard, urgency=job.urgency)
            late.append(raw)
            return raw

        def undo() -> None:
            for raw in late:
                raw.cancel()
            lease.release()

        held = Lease(None, undo)
        try:
            return self._guard.call(
                str(key),
                self._patience(job),
                submit,
                holding=held,  # where it is given up in another thread, this ends the lease
                given_up=lambda _: self._cache.abandon(key, lease.model),
                is_stage=True,
            )
        except BaseException:
            held.release()
            raise

    def _watch(self, following: _Following) -> None:
        """Fail a request whose model is silent for too long, and end that use of the model."""
        job, guard = following.job, self._guard
        key = self._loading(job).key

        def give_up(error: InferenceTimeout) -> None:
            self._cache.abandon(key, following.lease.model, gone=lambda: guard.recovered(key))
            following.end(error)

        following.raw.add_done_callback(lambda done: None if done.cancelled() else guard.sign(key))
        signs = self._signs_of(job, following.lease.model, is_followed=True)
        awaited = Awaited(key, self._patience(job), signs, give_up, outlives_cancel=_tells_signs(job.engine))
        guard.follow(following.outcome, awaited)

    def _signs_of(self, job: Job, model: Any, *, is_followed: bool = False) -> Callable[[], float]:
        """Return a function that returns the time of a model's last sign of life.

        `is_followed`: the engine reports signs itself, and None means that nothing is under way.
        """
        engine, key, guard = job.engine, self._loading(job).key, self._guard

        def alive_at() -> float:
            try:
                told = engine.last_sign(model)
            except BaseException:
                log.exception("last_sign_failed", engine=engine.name)
                told = None
            if told is None and is_followed and _tells_signs(engine):
                told = time.monotonic()
            return max(guard.last_sign(key), told or 0.0)

        return alive_at

    def _patience(self, job: Job) -> float:
        return self._guard.patience.of(job.task, job.model.name)

    def load(self, task: str, engine_name: str, model: ResolvedModel, engine: BaseEngine) -> Lease:
        """Load a model before any request for it, and return a lease on it; raises the InferenceErrors of loading."""
        loading = self._loading_of(engine_name, task, model, engine)
        return self._cache.share(loading.key, loading.load, loading.unload)

    def is_loaded(self, job: Job) -> bool:
        """Return whether the model of `job` is in memory, so that it can run without a load."""
        return self._cache.is_loaded(self._loading(job).key)

    def _outcomes(
        self, lease: Lease, batch: Sequence[Job], told: Mapping[Job, Outcome], tell: OnOutcome
    ) -> list[Outcome]:
        """Run a batch; where the engine raises, bisect it to find the request that fails.

        `tell` stores in `told` the outcomes that are known early; those requests are not run again. If the engine
        hangs, the model is loaded again, and all that are not told are given up: this call may hang with the engine.
        """
        first, model = batch[0], lease.model
        engine, key = first.engine, self._loading(first).key
        signs = self._signs_of(first, model) if _tells_signs(engine) else None
        ended: dict[Job, Outcome] = {}
        """The outcomes of halves that have run."""

        def give_up(error: InferenceTimeout) -> None:
            self._cache.abandon(key, model)
            for one in batch:
                tell(one, ended.get(one, error))

        def run(some: Sequence[Job]) -> list[Outcome]:
            if left := [one for one in some if one not in told]:
                ended.update(zip(left, _one_outcome_each(run_all(left), left), strict=True))
            return [told[one] if one in told else ended[one] for one in some]

        def run_all(left: Sequence[Job]) -> Sequence[Outcome]:
            def early(number: int, outcome: Outcome) -> None:
                self._guard.sign(key)
                if left[number] not in told:
                    tell(left[number], _checked(outcome, first))

            def is_wanted() -> bool:
                return any(not one.is_given_up and one not in told for one in left)

            inputs, options = [one.inputs for one in left], [one.options for one in left]
            try:
                with working_on([one.name for one in left]), wanted_while(is_wanted):
                    return self._guard.call(
                        str(key),
                        self._patience(first),
                        lambda: engine.infer_each(model, inputs, options, early),
                        holding=lease,
                        alive_at=signs,
                        given_up=give_up,
                        is_stage=True,
                    )
            except (GivenUp, EngineUnavailable, Busy, Cancelled) as error:
                return [error.with_traceback(None)] * len(left)  # the requests are not the cause

        def failed(some: Sequence[Job], error: BaseException) -> Outcome:
            if len(some) == 1:
                return ended.setdefault(some[0], _as_failure(error, some[0]))
            log.warning("batch_failed", model=first.model.key, items=len(some), error=words_of(error))
            return as_inference_error(error)

        return bisected(run, batch, failed=failed)

    def _loading(self, job: Job) -> ModelLoading:
        return self._loading_of(job.engine_name, job.task, job.model, job.engine)


class _Following:
    """The outcome of a request in its engine: cancelling it cancels the request, and its end releases the model."""

    def __init__(self, raw: Future[Any], job: Job, lease: Lease, running: float) -> None:
        self.raw = raw
        self.job = job
        self.lease = lease
        self.outcome: Future[Outcome] = Future()
        self._running = running
        self._ending = threading.Lock()
        raw.add_done_callback(self._on_raw)
        self.outcome.add_done_callback(self._on_outcome)

    def end(self, outcome: Outcome) -> None:
        """End with `outcome`, whatever the engine returns later."""
        self._settle(lambda: outcome)
        self.raw.cancel()
        self.lease.release()

    def _on_raw(self, done: Future[Any]) -> None:
        self.lease.release()
        job = self.job
        job.claim = None  # the two futures refer to each other, and would keep the request in memory
        self._settle(lambda: _outcome(done, job))

    def _on_outcome(self, done: Future[Outcome]) -> None:
        if done.cancelled():
            self.raw.cancel()

    def _settle(self, outcome: Callable[[], Outcome]) -> None:
        """Set the caller's outcome, unless it has one or has gone."""
        with self._ending:
            if self.outcome.done() or not self.outcome.set_running_or_notify_cancel():
                return
        self.job.timings["infer"] = time.perf_counter() - self._running
        with working_on((self.job.name,)):  # this is a thread of the engine, which works for many requests
            made = outcome()
        self.outcome.set_result(made)


def _tells_signs(engine: BaseEngine) -> bool:
    return type(engine).last_sign is not BaseEngine.last_sign


def _outcome(done: Future[Any], job: Job) -> Outcome:
    try:
        return _checked(done.result(), job)
    except CancelledError:
        return Cancelled(f"engine {job.engine_name} dropped the request; send it again")
    except BaseException as error:  # noqa: BLE001 - logged, and the caller is told
        return _as_failure(error, job)


def _one_outcome_each(outcomes: Sequence[Any], batch: Sequence[Job]) -> list[Outcome]:
    """Return the outcomes, with an error in place of each that has the wrong type."""
    if len(outcomes) != len(batch):  # they cannot be assigned to requests
        raise InternalError(
            f"engine {batch[0].engine_name} returned {counted(len(outcomes), 'outcome')} for "
            f"{counted(len(batch), 'request')}"
        )
    return [_checked(outcome, batch[0]) for outcome in outcomes]


def _checked(outcome: Any, job: Job) -> Outcome:
    if isinstance(outcome, (dict, InferenceError)):
        return outcome
    return InternalError(f"engine {job.engine_name} returned {type(outcome).__name__} for a request; it must be a dict")


def _as_failure(error: BaseException, job: Job) -> InferenceError:
    failure = as_inference_error(error, f"as engine {job.engine_name} ran model {job.model.key}")
    if failure is not error:
        log.error("execute_failed", task=job.task, engine=job.engine_name, model=job.model.key, exc_info=error)
    return failure
