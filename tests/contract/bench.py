"""A manager that knows the models of the cases, and what must be true of everything it returns."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from engines.cache.loader import ModelLoading
from engines.config.settings import CacheSettings, EngineSettings, OllamaSettings
from engines.inference import InferenceManager
from engines.models.resolved_model import ResolvedModel
from engines.run.results import STAGES
from handlers import errors
from streams.media import MediaFetcher
from streams.messages import Result, decode_result, encode
from streams.pipeline.batcher import Batcher
from streams.pipeline.byte_budget import ByteBudget
from streams.pipeline.dispatcher import Dispatcher
from streams.pipeline.pipeline import Pipeline, Pools
from streams.settings import S3Settings
from tests.contract.cases import Case
from tests.contract.outputs import OUTPUTS
from tests.device import on_this_machine
from tests.prepared_job import prepared_job
from tests.unit.engines.parts import KnownModels

BAD_MEDIA = {"INVALID_INPUT", "MEDIA_CORRUPT", "MEDIA_FORBIDDEN", "MEDIA_NOT_FOUND"}

_RETRYABLE = {
    kind.code: kind.retryable
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.InferenceError)
}
_LONGEST_MESSAGE = 1000
_STACK_TRACE = re.compile(r'Traceback|File "|\.py\b|line \d+, in|0x[0-9a-f]{6,}')


class FolderModels(KnownModels):
    """Knows the models of cases, whose files lie in folders of this machine."""

    def __init__(self, directory: Path, cases: Sequence[Case]) -> None:
        super().__init__(directory, *(case.model for case in cases))
        self._folders = {case.name: case.folder for case in cases}

    def folder_of(self, model: ResolvedModel) -> Path:
        """Return the folder of the case."""
        folder = self._folders[model.name]
        assert folder is not None
        return folder()


def manager_of(cases: Sequence[Case], directory: Path, *, ollama_url: str) -> InferenceManager:
    """Return a manager that answers `cases`, and keeps all their models once they are loaded."""
    settings = EngineSettings(
        cache=CacheSettings(directory=directory, max_models=len(cases)),
        transformers=on_this_machine(),
        ollama=OllamaSettings(api_base=ollama_url, timeout_s=30),
    )
    return InferenceManager.from_settings(settings, models=FolderModels(directory, cases))


def assert_answered(case: Case, result: dict[str, Any] | Result) -> dict[str, Any]:
    """Check that `result` is a right answer in the shape of a result, and return the task's output."""
    decoded = decode_result(encode(result))
    assert decoded.success is True, decoded.error
    assert decoded.error is None
    assert (decoded.task, decoded.engine, decoded.model_name) == (case.task, case.engine, case.name)
    assert decoded.model_version == "1"
    assert decoded.id
    assert decoded.worker
    assert tuple(decoded.timings) == STAGES
    assert all(seconds >= 0 for seconds in decoded.timings.values())
    assert decoded.timings["infer"] > 0
    output = decoded.result or {}
    msgspec.json.decode(msgspec.json.encode(output), type=OUTPUTS[case.task])
    assert case.is_right(output), output
    return output


def assert_refused(result: dict[str, Any] | Result, codes: set[str], *, names: str = "") -> str:
    """Check that `result` is a failure with one of `codes` that names `names`, and return its message."""
    decoded = decode_result(encode(result))
    assert (decoded.success, decoded.result) == (False, None), result
    assert decoded.error is not None
    assert_readable(decoded.error.code, decoded.error.message)
    assert decoded.error.code in codes, decoded.error
    assert decoded.error.retryable is _RETRYABLE[decoded.error.code]
    assert names in decoded.error.message, decoded.error
    return decoded.error.message


def assert_readable(code: str, message: str) -> None:
    """Check that an error is for its caller: a sentence of one line, and nothing of our code."""
    assert message, code
    assert "\n" not in message, message
    assert len(message) <= _LONGEST_MESSAGE, message
    assert not _STACK_TRACE.search(message), message


@asynccontextmanager
async def pipeline_over(manager: InferenceManager) -> AsyncIterator[Pipeline]:
    """Yield a pipeline that stands on `manager`, with batches of up to 8."""
    media = EngineSettings().media
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(4))
        fetcher = stack.enter_context(closing(MediaFetcher(media, S3Settings())))
        batcher = Batcher(manager.execution.run, threads=lambda _: threads, max_items=8, max_wait_s=0.05)
        stack.push_async_callback(batcher.close)
        yield Pipeline(
            manager=manager,
            fetcher=fetcher,
            dispatcher=Dispatcher(manager.execution, batcher, lambda _: threads),
            pools=Pools(registry=threads, stages=threads, decode=threads, children=threads),
            memory=ByteBudget(10**9),
            worker="contract",
        )


@contextmanager
def taken(manager: InferenceManager, case: Case) -> Iterator[None]:
    """Use the model of `case` exclusively during the block, so that whoever runs batches on it waits."""
    prepared = prepared_job(manager, **case.request())
    loading = ModelLoading(case.engine, case.task, prepared.model, prepared.engine, manager.models.files)
    with manager.cache.lease(loading.key, loading.load, loading.unload):
        yield


def leases_on(manager: InferenceManager, case: Case) -> int:
    """Return how many use the model of `case` now."""
    return sum(row["leases"] for row in manager.get_cached_models() if row["model_name"] == case.name)
