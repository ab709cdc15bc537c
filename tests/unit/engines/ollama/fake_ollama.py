"""A server that speaks Ollama's API as the real one does, answers by echo, and goes wrong when told to.

The official client accepts it (test_fake_ollama.py). It holds no weights: what it says of a model's answer is
only that framing, options and counts are as they should be.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md, and server/routes.go for statuses and errors.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from PIL import Image

_CREATED_AT = "2026-11-24T10:00:00.123456789Z"
_DIGEST = "sha256:" + "0123456789abcdef" * 4
_INTEGERS = ("num_predict", "num_ctx", "top_k", "seed", "repeat_last_n")
_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")


class Signal:
    """What a stream does instead of sending bytes."""


DROP, WAIT = Signal(), Signal()
"""Cut the connection; wait for `FakeOllama.release`."""

Piece = bytes | Signal


@dataclass(frozen=True)
class Refusal:
    """An answer of another status than 200, before any chunk."""

    status: int
    error: str

    @property
    def body(self) -> str:
        return json.dumps({"error": self.error})


Fault = Refusal | Callable[[list[bytes]], Sequence[Piece]]
"""A refusal, or what to make of the lines of a stream."""


def error_line(error: str) -> Fault:
    """After the first line the server fails: it has said 200 already, so an error line is all it can send."""
    return lambda lines: [lines[0], _line({"error": error})]


def without_end(lines: list[bytes]) -> Sequence[Piece]:
    """The stream ends well but for its last line."""
    return lines[:-1]


def dropped(lines: list[bytes]) -> Sequence[Piece]:
    """The connection breaks after the first line."""
    return [lines[0], DROP]


def cut_within_a_line(lines: list[bytes]) -> Sequence[Piece]:
    """The stream ends in the middle of its last line."""
    return [*lines[:-1], lines[-1][:20]]


def garbage(lines: list[bytes]) -> Sequence[Piece]:
    """Something between us and the server puts in a line of its own."""
    return [lines[0], b"<html>Bad Gateway</html>\n", *lines[1:]]


def silent(lines: list[bytes]) -> Sequence[Piece]:
    """No byte comes before `release`."""
    return [WAIT, *lines]


def stalled(lines: list[bytes]) -> Sequence[Piece]:
    """After the first line nothing comes before `release`."""
    return [lines[0], WAIT, *lines[1:]]


def byte_by_byte(lines: list[bytes]) -> Sequence[Piece]:
    """Every byte comes alone, so characters are cut as well as lines."""
    return [bytes([byte]) for byte in b"".join(lines)]


def with_empty_lines(lines: list[bytes]) -> Sequence[Piece]:
    """Keep-alive newlines and Windows line ends."""
    return [b"\n", *(line.rstrip(b"\n") + b"\r\n\n" for line in lines)]


@dataclass
class FakeModel:
    """What the server tells of a model."""

    capabilities: tuple[str, ...] | None = ("completion",)
    parameters: str = ""
    size: int = 1000


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
        refusal = self._refusal(body)
        if refusal is not None:
            return _refused(refusal)
        model = body["model"]
        if not body.get("prompt"):
            return self._loaded(model, body, {"response": ""})
        answer = _Answer(body, body["prompt"], body.get("images", ()))
        lines = [
            *({"response": "", "thinking": piece, "done": False} for piece in answer.thinking),
            *({"response": piece, "done": False} for piece in answer.tokens),
            {"response": "", **answer.end, "context": [1, 2, 3]},
        ]
        return await self._answer(request, body, lines)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        refusal = self._refusal(body)
        if refusal is not None:
            return _refused(refusal)

        def message(content: str, **more: Any) -> dict[str, Any]:
            return {"message": {"role": "assistant", "content": content, **more}}

        messages = body.get("messages")
        if not messages:
            return self._loaded(body["model"], body, message(""))
        answer = _Answer(body, messages[-1]["content"], messages[-1].get("images", ()))
        lines = [
            *({**message("", thinking=piece), "done": False} for piece in answer.thinking),
            *({**message(piece), "done": False} for piece in answer.tokens),
            {**message(""), **answer.end},
        ]
        return await self._answer(request, body, lines)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        name = body.get("model") or body.get("name") or ""
        self.pulls[name] += 1
        digest, label = _DIGEST, f"pulling {_DIGEST[7:19]}"
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
        response = await self._stream(request, lines)
        if found is not None:
            self.models[short] = found
        return response

    async def _show(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        name = body.get("model", "").removesuffix(":latest")
        if (fault := self._fault(request)) is not None:
            assert isinstance(fault, Refusal)
            return _refused(fault)
        if name not in self.models:
            return _refused(Refusal(404, f"model '{name}' not found"))
        model = self.models[name]
        shown: dict[str, Any] = {
            "modelfile": f"FROM {name}",
            "template": "{{ .Prompt }}",
            "details": _DETAILS,
            "model_info": {"general.architecture": "echo"},
            "modified_at": _CREATED_AT,
        }
        if model.parameters:
            shown["parameters"] = model.parameters
        if model.capabilities is not None:
            shown["capabilities"] = model.capabilities
        return web.json_response(shown)

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, {}))
        listed = [
            {**_listed(name), "size": model.size, "modified_at": _CREATED_AT}
            for name, model in self.models.items()
        ]
        return web.json_response({"models": listed})

    async def _ps(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, {}))
        listed = [
            {**_listed(name), "size": 1000, "size_vram": 0, "expires_at": _CREATED_AT, "context_length": 4096}
            for name in self.loaded
        ]
        return web.json_response({"models": listed})

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

    def _fault(self, request: web.Request) -> Fault | None:
        waiting = self.faults[request.path]
        return waiting.popleft() if waiting else None

    def _refusal(self, body: dict[str, Any]) -> Refusal | None:
        """Return why the real server would not run this request."""
        name = body.get("model", "").removesuffix(":latest")
        if name not in self.models:
            return Refusal(404, f"model '{name}' not found")
        can = self.models[name].capabilities or ()
        if body.get("think") and "thinking" not in can:
            return Refusal(400, f'"{name}" does not support thinking')
        keep = body.get("keep_alive", 0)
        if isinstance(keep, str) and not _DURATION.fullmatch(keep):
            return Refusal(400, f'time: invalid duration "{keep}"')
        for option in _INTEGERS:
            if type(body.get("options", {}).get(option, 0)) is not int:
                return Refusal(500, f'option "{option}" must be of type integer')
        if body.get("format", "json") != "json" and not isinstance(body["format"], dict):
            return Refusal(500, 'invalid format: expected "json" or a valid JSON Schema object')
        return None

    def _loaded(self, model: str, body: dict[str, Any], empty: dict[str, Any]) -> web.Response:
        """Answer an empty request, which only loads or unloads: one object, no stream."""
        unloads = body.get("keep_alive") == 0
        if unloads and model in self.loaded:
            self.loaded.remove(model)
        elif not unloads and model not in self.loaded:
            self.loaded.append(model)
        reason = "unload" if unloads else "load"
        end = {"model": model, "created_at": _CREATED_AT, **empty, "done": True, "done_reason": reason}
        return web.json_response(end)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], lines: list[dict[str, Any]]
    ) -> web.StreamResponse:
        model = body["model"]
        if model not in self.loaded:
            self.loaded.append(model)
        full = [{"model": model, "created_at": _CREATED_AT, **line} for line in lines]
        if body.get("stream") is False:
            return web.json_response(full[-1])
        return await self._stream(request, full)

    async def _stream(self, request: web.Request, lines: list[dict[str, Any]]) -> web.StreamResponse:
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


class _Answer:
    """What the fake says to a prompt: its words back, or what it sees, or JSON; as options bound it."""

    def __init__(self, body: dict[str, Any], prompt: str, images: Sequence[str]) -> None:
        options = body.get("options", {})
        text = f"You said: {prompt}"
        if body.get("format"):
            text = '{"answer": 42}'
        elif images:
            text = "I see " + " and ".join(map(_seen, images))
        stops = [text.index(stop) for stop in options.get("stop", ()) if stop in text]
        tokens = re.findall(r"\s*\S+", text[: min(stops, default=len(text))])
        most = options.get("num_predict", -1)
        is_cut = 0 <= most < len(tokens)
        self.tokens = tokens[:most] if is_cut else tokens
        self.thinking = ("Hmm, ", "an echo.") if body.get("think") else ()
        counts = {
            "total_duration": 4_000_000_000,
            "load_duration": 1_000_000_000,
            "prompt_eval_count": len(prompt.split()),
            "prompt_eval_duration": 500_000_000,
            "eval_count": len(self.tokens),
            "eval_duration": 2_000_000_000,
        }
        self.end = {
            "done": True,
            "done_reason": "length" if is_cut else "stop",
            **{name: count for name, count in counts.items() if count},  # as Go's omitempty
        }


_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "echo",
    "families": ["echo"],
    "parameter_size": "1K",
    "quantization_level": "F32",
}


def _listed(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "digest": _DIGEST, "details": _DETAILS}


def _seen(encoded: str) -> str:
    """Return colour and size of an image's first pixel, so that a test sees which image arrived."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, OSError) as error:
        raise web.HTTPBadRequest(text=json.dumps({"error": f"illegal base64 data: {error}"})) from error
    return f"{image.format} {image.width}x{image.height} {image.convert('RGB').getpixel((0, 0))}"


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _refused(refusal: Refusal) -> web.Response:
    return web.json_response(text=refusal.body, status=refusal.status)
