"""A server that speaks Ollama's API as the real one does, answers by echo, and goes wrong when told to.

The official client accepts it (test_fake_ollama.py). It holds no weights: what it says of a model's answer is
only that framing, options and counts are as they should be.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md, and server/routes.go for statuses and errors.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.unit.engines.ollama.fake_answers import Answer
from tests.unit.engines.ollama.fake_faults import WAIT, Fault, Refusal
from tests.unit.engines.ollama.fake_models import (
    CREATED_AT,
    DIGEST,
    FakeModel,
    listed,
    shown,
    why_bad_name,
    why_refused,
)


@dataclass
class FakeOllama:
    """The server in a thread of its own, on a free loopback port; use it as a context manager.

    Its records may be read from any thread. `faults[path]` are taken one per request to that path.
    """

    models: dict[str, FakeModel] = field(default_factory=lambda: {"echo": FakeModel()})
    library: dict[str, FakeModel] = field(default_factory=dict)
    """What can be pulled."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    pulls: Counter[str] = field(default_factory=Counter)
    loaded: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    disconnects: int = 0

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(20)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Return the bodies of all requests to `path`."""
        return [body for asked, body in self.requests if asked == path]

    def fail(self, path: str, *faults: Fault) -> None:
        """Have the next requests to `path` go wrong, one fault each."""
        self.faults[path].extend(faults)

    def release(self) -> None:
        """Let every stream that waits go on, and those to come not wait."""
        self._loop.call_soon_threadsafe(self._released.set)

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped, self._released = asyncio.Event(), asyncio.Event()
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/api/generate", self._generate)
        app.router.add_post("/api/chat", self._chat)
        app.router.add_post("/api/pull", self._pull)
        app.router.add_post("/api/show", self._show)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_get("/api/version", self._version)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        started.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        refusal = why_refused(body, self.models)
        if refusal is not None:
            return _refused(refusal)
        model = body["model"]
        if not body.get("prompt"):
            return self._loaded(model, body, {"response": ""})
        answer = Answer(body, body["prompt"], body.get("images", ()), self._model(body).context)
        lines = [
            *({"response": "", "thinking": piece, "done": False} for piece in answer.thinking),
            *({"response": piece, "done": False} for piece in answer.tokens),
            {"response": "", **answer.end, "context": [1, 2, 3]},
        ]
        return await self._answer(request, body, lines)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        refusal = why_refused(body, self.models)
        if refusal is not None:
            return _refused(refusal)

        def message(content: str, **more: Any) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": content, **more}}

        messages = body.get("messages")
        if not messages:
            return self._loaded(body["model"], body, message(""))
        images = messages[-1].get("images", ())
        answer = Answer(body, messages[-1]["content"], images, self._model(body).context)
        lines = [
            *({**message("", thinking=piece), "done": False} for piece in answer.thinking),
            *({**message(piece), "done": False} for piece in answer.tokens),
            {**message(""), **answer.end},
        ]
        return await self._answer(request, body, lines)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        name = body.get("model") or body.get("name") or ""
        if (refusal := why_bad_name(name)) is not None:
            return _refused(refusal)
        self.pulls[name] += 1
        digest, label = DIGEST, f"pulling {DIGEST[7:19]}"
        lines: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        found = self.library.get(short := name.removesuffix(":latest"))
        if found is None:
            lines.append({"error": "pull model manifest: file does not exist"})
        else:
            lines += [
                {"status": label, "digest": digest, "total": found.size},
                {"status": label, "digest": digest, "total": found.size, "completed": found.size // 2},
                {"status": label, "digest": digest, "total": found.size, "completed": found.size},
                {"status": "verifying sha256 digest"},
                {"status": "writing manifest"},
                {"status": "success"},
            ]
        if body.get("stream") is False:
            if found is None:
                return _refused(Refusal(500, lines[-1]["error"]))
            self.models[short] = found
            return web.json_response(lines[-1])

        def arrived() -> None:
            if found is not None:
                self.models[short] = found

        return await self._stream(request, lines, before_last=arrived)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        name = body.get("model", "").removesuffix(":latest")
        if (fault := self._fault(request)) is not None:
            assert isinstance(fault, Refusal)
            return _refused(fault)
        if (refusal := why_bad_name(name)) is not None:
            return _refused(refusal)
        if name not in self.models:
            return _refused(Refusal(404, f"model '{name}' not found"))
        return web.json_response(shown(name, self.models[name]))

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, {}))
        models = [
            {**listed(name), "size": model.size, "modified_at": CREATED_AT} for name, model in self.models.items()
        ]
        return web.json_response({"models": models})

    async def _ps(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, {}))
        models = [
            {**listed(name), "size": 1000, "size_vram": 0, "expires_at": CREATED_AT, "context_length": 4096}
            for name in self.loaded
        ]
        return web.json_response({"models": models})

    async def _version(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, {}))
        if (fault := self._fault(request)) is not None:
            assert not isinstance(fault, Refusal)
            await self._released.wait()
        return web.json_response({"version": "0.33.0"})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.read())
        self.requests.append((request.path, body))
        return body

    def _model(self, body: dict[str, Any]) -> FakeModel:
        return self.models[body["model"].removesuffix(":latest")]

    def _fault(self, request: web.Request) -> Fault | None:
        waiting = self.faults[request.path]
        return waiting.popleft() if waiting else None

    def _loaded(self, model: str, body: dict[str, Any], empty: dict[str, Any]) -> web.Response:
        """Answer an empty request, which only loads or unloads: one object, no stream."""
        unloads = body.get("keep_alive") == 0
        if unloads and model in self.loaded:
            self.loaded.remove(model)
        elif not unloads and model not in self.loaded:
            self.loaded.append(model)
        reason = "unload" if unloads else "load"
        end = {"model": model, "created_at": CREATED_AT, **empty, "done": True, "done_reason": reason}
        return web.json_response(end)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], lines: list[dict[str, Any]]
    ) -> web.StreamResponse:
        model = body["model"]
        if model not in self.loaded:
            self.loaded.append(model)
        full = [{"model": model, "created_at": CREATED_AT, **line} for line in lines]
        if body.get("stream") is False:
            return web.json_response(full[-1])
        return await self._stream(request, full)

    async def _stream(
        self,
        request: web.Request,
        lines: list[dict[str, Any]],
        *,
        before_last: Callable[[], None] = lambda: None,
    ) -> web.StreamResponse:
        """Send `lines`; `before_last` is called when the last one is about to go, and not if a fault keeps it."""
        fault = self._fault(request)
        if isinstance(fault, Refusal):
            return _refused(fault)
        encoded = [_line(line) for line in lines]
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            for piece in encoded if fault is None else fault(encoded):
                if piece is WAIT:
                    await self._released.wait()
                    continue
                if not response.prepared:  # a busy server sends not even its headers
                    await response.prepare(request)
                if isinstance(piece, bytes):
                    if piece == encoded[-1]:
                        before_last()
                    await response.write(piece)
                    continue
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write_eof()
            return response
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnects += 1
            raise
        finally:
            self.running -= 1


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _refused(refusal: Refusal) -> web.Response:
    return web.json_response(text=refusal.body, status=refusal.status)
