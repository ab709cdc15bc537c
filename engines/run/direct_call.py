"""Takes the request of a Python call through all stages in the calling thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any, TypeVar, cast

from engines.deadlines import USUAL_PRIORITY, Deadline, ends_at, expired, urgency_of
from engines.guard import Guard
from engines.log_context import working_on
from engines.run.executor import Execution
from engines.run.job import Job, Outcome, Walk
from engines.run.outcomes import Outcomes
from engines.run.resolve import RequestResolver
from engines.run.results import Result
from engines.run.stages import postprocess, preprocess, stage_failed
from handlers.errors import InferenceError, InvalidInput, InvalidRequest

T = TypeVar("T")

FetchMedia = Callable[[Mapping[str, Any], Sequence[str]], dict[str, Any]]
"""Returns a copy of a request's data with the media in these fields fetched; blocks, raises InferenceErrors."""

MEDIA_ENTRY_POINTS = "inferstream.media"
"""Group of entry points whose `default` is a `FetchMedia`."""


class DirectCall(Walk):
    """Takes requests whose media may be bytes or addresses through all stages. Thread-safe; every call blocks."""

    def __init__(
        self, resolver: RequestResolver, execution: Execution, fetch_media: FetchMedia, outcomes: Outcomes, guard: Guard
    ) -> None:
        """`guard` runs the stages of handlers, so that one that hangs does not block the caller for long."""
        super().__init__(outcomes)
        self._resolver = resolver
        self._guard = guard
        self._execution = execution
        self._fetch_media = fetch_media

    def infer(
        self, job: Job, *, deadline: Deadline = None, priority: int = USUAL_PRIORITY, timeout: float | None = None
    ) -> Result:
        """Answer one request, count it, and return its result, `success` or not."""
        with working_on((job.name,)):
            try:
                job.ends = ends_at(deadline, timeout)
                job.urgency = urgency_of(priority, job.ends)
                if job.ends is not None and time.time() >= job.ends:
                    raise expired()
                # An engine within a batch goes on until it calls `stop_if_unwanted`; its outcome is dropped.
                outcome = self._guard.call_in_stages(
                    partial(self._to_its_end, job), ends=math.inf if job.ends is None else job.ends
                )
            except InferenceError as error:
                return self.finish(job, error)
            return self.finish(job, outcome)

    async def _resolve(self, job: Job) -> None:
        """Check everything of a request that can be checked before its media are fetched."""
        data: Any = job.data
        if not isinstance(data, dict):
            raise InvalidRequest(f"data must be an object with the task's inputs; got {type(data).__name__}")
        check_texts("data", data)  # a request from JSON is checked when it is decoded
        check_texts("options", job.options)
        self._resolver.resolve(job)

    async def _fetch(self, job: Job) -> None:
        started = time.perf_counter()
        try:
            job.data = self._fetch_media(job.data, job.handler.media_fields)
        except InferenceError:
            raise
        except BaseException as error:
            raise stage_failed("fetch", job.task, error) from error
        job.timings["fetch"] = time.perf_counter() - started

    async def _preprocess(self, job: Job) -> None:
        self._guarded("preprocess", job, partial(preprocess, job, job.data))

    async def _run(self, job: Job) -> Outcome:
        if not job.is_continuous:
            self._guard.when_left(partial(setattr, job, "is_given_up", True))
            [outcome] = self._execution.run([job])
            return outcome
        running = self._execution.start(job)
        self._guard.when_left(running.cancel)
        try:
            return running.result()
        finally:
            running.cancel()  # it still runs only after an interrupt

    async def _postprocess(self, job: Job, raw: dict[str, Any]) -> dict[str, Any]:
        return self._guarded("postprocess", job, partial(postprocess, job, raw))

    def _guarded(self, stage: str, job: Job, call: Callable[[], T]) -> T:
        limit_s = self._guard.patience.of(job.task, job.model_name)
        return self._guard.call(f"{stage} of task {job.task}", limit_s, call, is_stage=True)

    def _to_its_end(self, job: Job) -> Outcome:
        """Run the walk of a job, which never waits, and return its outcome."""
        try:
            self.walk(job).send(None)
        except StopIteration as ended:
            return cast(Outcome, ended.value)
        raise RuntimeError("a stage waits where its caller blocks")


def fetch_by_entry_point(
    data: Mapping[str, Any], fields: Sequence[str], *, trust_local_paths: bool = False
) -> dict[str, Any]:
    """Fetch with the function that an installed package offers: `streams` offers one, and may not be imported here.

    `trust_local_paths` accepts every path that this process can read, not only those under media.allowed_roots.
    """
    if all(data.get(name) is None for name in fields):
        return dict(data)
    offers = list(entry_points(group=MEDIA_ENTRY_POINTS))
    if not offers:
        raise InvalidInput(
            f"data.{fields[0]} cannot be fetched: no installed package offers an entry point {MEDIA_ENTRY_POINTS}; "
            "install inferstream again"
        )
    return cast(dict[str, Any], offers[0].load()(data, fields, trust_local_paths=trust_local_paths))


def check_texts(name: str, value: Any) -> None:
    """Check that every string in `value`, at any depth of lists and objects, can be encoded as UTF-8.

    Strings from JSON always can; a Python string may hold a lone surrogate.

    Raises:
        InvalidInput: permanent; names the place and the character.
    """
    match value:
        case str():
            try:
                value.isascii() or value.encode()
            except UnicodeEncodeError as error:
                raise InvalidInput(
                    f"{name} is not Unicode text: at {error.start} stands {value[error.start]!a}, half of a surrogate "
                    "pair; decode it from bytes with errors='replace'"
                ) from None
        case dict():
            for key, one in value.items():
                check_texts(f"{name}.{key!s:.60}", one)
        case list() | tuple():
            for index, one in enumerate(value):
                check_texts(f"{name}[{index}]", one)
