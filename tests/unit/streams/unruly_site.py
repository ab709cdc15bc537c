"""The runtime of a worker, with the unruly engine and every door to it but Kafka's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx

from engines import registry as engine_registry
from engines.config.settings import CacheSettings
from engines.models.resolved_model import ResolvedModel
from engines.registry import register_engine
from handlers import model_registry
from streams.http.gateway import Gateway, start_gateway
from streams.messages import Request, Result
from streams.pipeline.fast_lane import FastLane
from streams.pipeline.runtime import Runtime, open_runtime
from streams.settings import HttpSettings, Settings, WorkerSettings
from tests.plugins import unruly
from tests.unit.engines.parts import KnownModels

PATIENCE_S = 60.0
"""Longest wait for what must happen."""


class AnyModels(KnownModels):
    """Knows a model of every name, for all tasks of the unruly engine."""

    def resolve(self, model_name: str) -> ResolvedModel:
        tags = {"task": "unruly,unruly-media,unruly-texts", "engine": "unruly"}
        self.models.setdefault(model_name, ResolvedModel(model_name, "1", f"s3://bucket/{model_name}", tags))
        return super().resolve(model_name)

    def is_fresh(self, model_name: str) -> bool:
        return True


class UnrulySite:
    """Asks by each door; what comes back is the result as a dict."""

    def __init__(self, runtime: Runtime, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self.runtime = runtime
        self.gateway = gateway
        self.client = client
        self.fast_lane = FastLane(runtime.pipeline, runtime.batcher)
        self.ended: list[Exception] = []
        """Why the process would end by now."""
        self.faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))

    @property
    def engine(self) -> unruly.UnrulyEngine:
        return cast(unruly.UnrulyEngine, self.runtime.manager.engines.get("unruly"))

    async def ask(self, door: str, data: dict[str, Any], *, model: str = "m") -> dict[str, Any]:
        """Ask by `quick`, `media`, `texts`, `http`, `events` or `python`."""
        task = {"media": "unruly-media", "texts": "unruly-texts", "events": "unruly-texts"}.get(door, "unruly")
        fields: dict[str, Any] = {"task": task, "engine": "unruly", "model_name": model, "data": data}
        async with asyncio.timeout(PATIENCE_S):
            match door:
                case "quick":
                    return await self._quickly(Request(id="r", **fields))
                case "media" | "texts":
                    return (await self.runtime.pipeline.answer(Request(id="r", **fields))).as_dict()
                case "http":
                    return await self._post(fields)
                case "events":
                    return await self._listen(fields)
                case "python":
                    return await _in_a_thread(self.runtime.manager.infer, fields)
        raise ValueError(door)

    async def _quickly(self, request: Request) -> dict[str, Any]:
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.runtime.manager.engines.get(request.engine)
        self.fast_lane.start(request, result.set_result, queue_s=0.0, alike={})
        return (await result).as_dict()

    async def _post(self, fields: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.post("/inference/infer", json=fields)).json()
        return found

    async def _listen(self, fields: dict[str, Any]) -> dict[str, Any]:
        headers = {"Accept": "text/event-stream"}
        response = await self.client.post("/inference/infer", json=fields, headers=headers)
        if response.headers["Content-Type"].startswith("application/json"):
            failed: dict[str, Any] = response.json()
            return failed
        data = response.text.strip().rpartition("data: ")[2]
        found: dict[str, Any] = httpx.Response(200, text=data).json()
        return found


@asynccontextmanager
async def unruly_site(directory: Path, **worker: Any) -> AsyncIterator[UnrulySite]:
    """Open a site; whatever hangs is let go at the end."""
    settings = Settings(
        worker=WorkerSettings(name="w", **worker),
        http=HttpSettings(port=0),
        cache=CacheSettings(directory=directory / "files"),
    )
    unruly.FOREVER.clear()
    ended: list[Exception] = []
    try:
        async with (
            registered(),
            open_runtime(settings, models=AnyModels(directory), on_too_many_stuck=ended.append) as runtime,
            start_gateway(runtime, settings) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, verify=False) as client,
        ):
            site = UnrulySite(runtime, gateway, client)
            site.ended = ended
            yield site
            unruly.FOREVER.set()  # what hangs holds up the end, as it does in a worker that drains
    finally:
        unruly.FOREVER.set()


@asynccontextmanager
async def registered() -> AsyncIterator[None]:
    """Have the unruly tasks and engine known in this process during the block, and not to other tests."""
    for task, handler in unruly.HANDLERS.items():
        model_registry.register_handler_manually(task, task, handler)
    register_engine(unruly.UnrulyEngine.name, unruly.UnrulyEngine)
    try:
        yield
    finally:
        del engine_registry._by_plugins[unruly.UnrulyEngine.name]
        for task in unruly.HANDLERS:
            del model_registry._registered[task]
            model_registry._made.pop(task, None)


async def _in_a_thread(call: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what `call` returns, in a thread of its own; fails the test where it raises."""
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            found.update(call(**fields))
        except BaseException as error:  # noqa: BLE001 - it is what the test looks for
            found["raised"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, PATIENCE_S)
    assert "raised" not in found, found
    return found
