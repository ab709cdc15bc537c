"""A gateway on a free port, over a real pipeline with small parts or over one that does as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import httpx

from engines.base import Emit
from engines.run.results import result_of
from handlers.errors import InferenceError
from streams.http.gateway import Gateway, start_gateway
from streams.media import MediaFetcher
from streams.messages import Request, Result
from streams.pipeline.batcher import Batcher
from streams.pipeline.byte_budget import ByteBudget
from streams.pipeline.dispatcher import Dispatcher
from streams.pipeline.pipeline import Patience, Pipeline, Pools
from streams.pipeline.runtime import Runtime
from streams.settings import Settings
from tests.unit.engines.parts import Bench

PATIENCE_S = 20.0
"""Longest wait for what must happen."""

SHOUT: dict[str, Any] = {
    "task": "shout",
    "engine": "shouter",
    "model_name": "tagged",
    "data": {"text": "hello"},
}
"""A request that the parts of `Bench` answer with HELLO."""

DEEP = '{"a":' * 5000 + "1" + "}" * 5000
"""A JSON document that is nested too deeply to be read."""


class ScriptedPipeline:
    """Answers each request with what `reply` says, as soon as `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.pieces: tuple[str, ...] = ()
        self.reply: Callable[[Request], dict[str, Any] | InferenceError] = lambda request: {"text": "done"}

    async def answer(
        self,
        request: Request,
        *,
        queue_s: float = 0.0,
        emit: Emit | None = None,
        patience: Patience | None = None,
    ) -> Result:
        self.requests.append(request)
        self.started.set()
        if emit is not None:
            # As an engine does it: in a thread of its own.
            telling = threading.Thread(target=lambda: [emit(piece) for piece in self.pieces])
            telling.start()
            telling.join()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.id)
            raise
        about: dict[str, Any] = {
            "task": request.task,
            "engine": request.engine,
            "model_name": request.model_name,
            "id": request.id,
            "processing_s": 0.0,
        }
        reply = self.reply(request)
        if isinstance(reply, InferenceError):
            return result_of(reply, **about)
        return result_of(reply, **about)


class HttpSite:
    """A running gateway, its parts and a client."""

    def __init__(self, gateway: Gateway, bench: Bench, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.bench = bench
        self.client = client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        url = httpx.URL(self.gateway.url)
        assert url.port is not None
        return url.host, url.port

    async def infer(self, request: Any = None, **changes: Any) -> httpx.Response:
        """Post a request: `SHOUT` with `changes`, or another one."""
        return await self.client.post("/inference/infer", json={**SHOUT, **changes} if request is None else request)


def settings_with(**http: Any) -> Settings:
    """Return settings that listen on a free port."""
    return Settings.model_validate({"http": {"port": 0, **http}, "worker": {"name": "w1"}})


@asynccontextmanager
async def http_site(
    directory: Path, settings: Settings | None = None, *, pipeline: ScriptedPipeline | None = None
) -> AsyncIterator[HttpSite]:
    """Serve a gateway during the block; it is drained at its end."""
    settings = settings or settings_with()
    bench = Bench(directory)
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        fetcher = stack.enter_context(closing(MediaFetcher(settings.media, settings.s3)))
        batcher = Batcher(bench.manager.execution.run, threads=lambda _: threads, max_items=4, max_wait_s=0.0)
        stack.push_async_callback(batcher.close)
        real = Pipeline(
            manager=bench.manager,
            fetcher=fetcher,
            dispatcher=Dispatcher(bench.manager.execution, batcher, lambda _: threads),
            pools=Pools(registry=threads, stages=threads, decode=threads, children=threads),
            memory=ByteBudget(10**9),
            worker=settings.worker.name,
        )
        runtime = Runtime(cast("Pipeline", pipeline or real), bench.manager, batcher)
        gateway = await stack.enter_async_context(start_gateway(runtime, settings))
        # Without TLS there is nothing to verify, and to read the certificates takes longer than most tests.
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, trust_env=False, verify=False)
        )
        yield HttpSite(gateway, bench, client)


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def assert_failure(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the response is an ordinary failure result, and return its error."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"].startswith("application/json")
    result = response.json()
    assert result["success"] is False
    assert result["result"] is None
    assert result["id"]
    assert result["worker"] == "w1"
    assert result["error"]["code"] == code
    assert "Traceback" not in response.text
    error: dict[str, Any] = result["error"]
    return error
