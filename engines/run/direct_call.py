"""One request from its check to its result, all in the calling thread: what a call from Python does."""

from __future__ import annotations

import contextvars
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from engines.deadlines import USUAL_PRIORITY, Deadline, ends_at, expired, urgency_of
from engines.guard import Guard
from engines.log_context import RequestName, working_on
from engines.run.checks import check_data, check_texts
from engines.run.executor import Execution
from engines.run.media_values import MediaValues
from engines.run.outcomes import Outcomes
from engines.run.prepared import Outcome, Prepared
from engines.run.resolve import Admission
from engines.run.results import failed_in, failure_result, no_time, success_result
from engines.run.stages import postprocess, preprocess, stage_failed
from handlers.errors import InferenceError

T = TypeVar("T")


class DirectCall:
    """Takes requests whose media may be bytes or addresses through all stages. Thread-safe; every call blocks."""

    def __init__(
        self,
        admission: Admission,
        execution: Execution,
        media: MediaValues,
        outcomes: Outcomes,
        guard: Guard | None = None,
    ) -> None:
        """`guard` runs the stages of handlers, so that one that never returns holds up no caller for long."""
        self._admission = admission
        self._guard = guard or Guard()
        self._execution = execution
        self._media = media
        self._outcomes = outcomes

    def prepare(
        self,
        *,
        task: str,
        engine: str = "",
        model_name: str,
        data: dict[str, Any],
        options: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Check one request, bring its media here and preprocess them.

        Raises:
            InferenceError: any kind of handlers.errors but those of running a model; nothing else.
        """
        admitted = self._admit(task=task, engine=engine, model_name=model_name, data=data, options=options)
        self._run_stage("preprocess", admitted, preprocess, self._here(admitted, data))
        return admitted

    def infer(
        self,
        *,
        task: str,
        engine: str,
        model_name: str,
        data: dict[str, Any],
        options: Mapping[str, Any] | None,
        id: str | None,
        metadata: Mapping[str, Any] | None,
        deadline: Deadline = None,
        priority: int = USUAL_PRIORITY,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Answer one request and return its result, `success` or not; count it."""
        started = time.perf_counter()
        about: dict[str, Any] = {
            "task": str(task),
            "engine": str(engine),
            "model_name": str(model_name),
            "id": secrets.token_hex(16) if id is None else id,
            "metadata": metadata,
        }
        output: dict[str, Any] | None = None
        failure: InferenceError | None = None
        timings, stage, admitted = no_time(), "resolve", None
        try:
            ends = ends_at(deadline, timeout)
            urgency = urgency_of(priority, ends)
            _check_time(ends)
            admitted = self._admit(
                task=task, engine=engine, model_name=model_name, data=data, options=options
            )
            admitted.urgency = urgency
            about["engine"] = admitted.engine
            about["model_version"], timings, stage = admitted.model.version, admitted.timings, "fetch"
            admitted.request = RequestName(about["id"], about["task"], about["model_name"])
            with working_on(admitted.names):
                here = self._here(admitted, data)
                stage = "preprocess"
                self._run_stage("preprocess", admitted, preprocess, here)
                stage = "wait"
                raw = self._run(admitted, ends)
                stage = "postprocess"
                output = self._run_stage("postprocess", admitted, postprocess, raw)
        except InferenceError as error:
            failure = error
        about["processing_s"] = processing_s = time.perf_counter() - started
        if failure is not None:
            running_s = admitted.running_s if admitted else 0.0
            about["timings"] = failed_in(stage, timings, processing_s, running_s=running_s)
            result = failure_result(error=failure, **about)
        else:
            about["timings"] = timings
            result = success_result(result=output or {}, **about)
        self._outcomes.finished(result)
        return result

    def _admit(
        self, *, task: str, engine: str, model_name: str, data: Any, options: Mapping[str, Any] | None
    ) -> Prepared:
        """Check all of a request that can be told before its media are here."""
        check_data(data)
        check_texts("data", data)  # of a request that came as JSON they are known to be right
        check_texts("options", options)
        return self._admission.admit(
            task=task, engine=engine, model_name=model_name, data=data, options=options
        )

    def _run_stage(
        self,
        stage: str,
        admitted: Prepared,
        call: Callable[[Prepared, dict[str, Any]], T],
        argument: dict[str, Any],
    ) -> T:
        what = f"{stage} of task {admitted.task}"
        limit_s = self._guard.patience.of(admitted.task, admitted.model.name)
        return self._guard.call(what, limit_s, partial(call, admitted, argument))

    def _here(self, admitted: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        """Return `data` with its media brought here."""
        started = time.perf_counter()
        try:
            here = self._media.resolve(data, admitted.handler.media_fields)
        except InferenceError:
            raise
        except BaseException as error:
            raise stage_failed("fetch", admitted.task, error) from error
        admitted.timings["fetch"] = time.perf_counter() - started
        return here

    def _run(self, prepared: Prepared, ends: float | None) -> dict[str, Any]:
        """Return the engine's raw result; `ends` is when it is of no use any more, in seconds since the epoch.

        Raises:
            InferenceError: why there is none.
        """
        _check_time(ends)
        outcome = self._outcome(prepared) if ends is None else self._outcome_until(prepared, ends)
        if isinstance(outcome, InferenceError):
            raise outcome
        return outcome

    def _outcome(
        self, prepared: Prepared, started: Callable[[Future[Outcome]], None] | None = None
    ) -> Outcome:
        """Run the request; `started` hears of what can be cancelled, where the engine takes it as it comes."""
        if not prepared.is_continuous:
            [outcome] = self._execution.run([prepared])
            return outcome
        running = self._execution.start(prepared)
        if started is not None:
            started(running)
        try:
            return running.result()
        finally:
            running.cancel()  # only an interrupt, or a caller who has gone, leaves it running

    def _outcome_until(self, prepared: Prepared, ends: float) -> Outcome:
        """Run the request in a thread of its own, and leave it to itself where time runs out.

        An engine that runs batches cannot be stopped within one: it goes on, and nobody hears what comes of it.
        """
        outcome: Future[Outcome] = Future()
        is_late = threading.Event()
        running: list[Future[Outcome]] = []

        def started(future: Future[Outcome]) -> None:
            running.append(future)
            if is_late.is_set():
                future.cancel()

        def work() -> None:
            try:
                outcome.set_result(self._outcome(prepared, started))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits, if any does
                outcome.set_exception(error)

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name=f"infer {prepared.task}", daemon=True).start()
        try:
            return outcome.result(min(max(0.0, ends - time.time()), threading.TIMEOUT_MAX))
        except TimeoutError:
            if outcome.done():
                return outcome.result()
            is_late.set()
            for future in running:
                future.cancel()
            raise expired() from None


def _check_time(ends: float | None) -> None:
    """Raise DeadlineExceeded where `ends`, in seconds since the epoch, has passed."""
    if ends is not None and time.time() >= ends:
        raise expired()
