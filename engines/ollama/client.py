"""HTTP client of an Ollama server: answers and pulls as streams, everything else as single requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec

from engines.config.settings import OllamaSettings
from engines.ollama.failures import Failures, Refused
from engines.ollama.wire import AnswerChunk, BadLine, JsonLines, ModelList, PullChunk, ServerError, Shown, Version

CONNECT_TIMEOUT_S = 5.0
HEALTH_TIMEOUT_S = 1.5
UNLOAD_TIMEOUT_S = 3.0
QUESTION_TIMEOUT_S = 30.0
"""Timeout of requests that the server answers without running a model."""

_JSON = {"Content-Type": "application/json"}

T = TypeVar("T")
Chunk = TypeVar("Chunk", AnswerChunk, PullChunk)


class OllamaClient:
    """One server's API, for one event loop; cancelling a call closes its connection, which stops its work. A busy
    server sends no byte before it starts on a request, so the wait for the first byte has the whole timeout. Every call
    raises only InferenceErrors, as `engines.ollama.failures` lists them."""

    def __init__(self, settings: OllamaSettings) -> None:
        self.failures = Failures(settings.api_base)
        self._timeout_s = settings.timeout_s
        self._http = httpx.AsyncClient(
            base_url=settings.api_base,
            timeout=httpx.Timeout(settings.timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            # The number of concurrent requests is limited before they come here.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.max_concurrent),
            trust_env=not settings.is_local,  # a proxy of the environment cannot reach this machine
        )

    async def answer(self, path: str, body: bytes, *, model: str, hear: Callable[[AnswerChunk], None]) -> AnswerChunk:
        """Run a prompt (/api/generate) or a conversation (/api/chat). `hear` gets every chunk; returned is the last,
        with counts and times, which is not `done` where the server ends its stream in good order without it."""
        last = AnswerChunk()
        try:
            async with (
                self._within(self._timeout_s),
                aclosing(self._chunks(path, body, AnswerChunk)) as chunks,
            ):
                async for chunk in chunks:
                    last = chunk
                    hear(chunk)
        except Refused as refused:
            raise self.failures.of_refusal(refused, model) from refused
        return last

    async def pull(self, model: str, hear: Callable[[PullChunk], None]) -> None:
        """Have the server pull a model; it may take hours, but must not be silent for the whole timeout."""
        body = msgspec.json.encode({"model": model, "stream": True})
        status = ""
        try:
            async with self._within(None), aclosing(self._chunks("/api/pull", body, PullChunk)) as chunks:
                async for chunk in chunks:
                    status = chunk.status
                    hear(chunk)
            if status != "success":
                raise Refused(200, f"it ended at {status!r} without success")
        except Refused as refused:
            raise self.failures.of_pull(refused, model) from refused

    async def show(self, model: str) -> Shown:
        """Return the server's description of a model; ModelMissing where it has none of that name."""
        return await self._ask("POST", "/api/show", Shown, {"model": model}, model=model)

    async def tags(self) -> list[str]:
        """Return the names of the models on the server's disk."""
        return (await self._ask("GET", "/api/tags", ModelList)).names

    async def health(self) -> dict[str, Any]:
        """Return the server's version, and as `loaded` the names of the models in its memory; takes 1.5 s at most."""
        async with self._within(HEALTH_TIMEOUT_S):
            version = await self._ask("GET", "/api/version", Version)
            loaded = await self._ask("GET", "/api/ps", ModelList)
            return {"version": version.version, "loaded": loaded.names}

    async def unload(self, model: str) -> None:
        """Have the server unload a model as soon as it is idle; takes 3 s at most."""
        body = {"model": model, "keep_alive": 0, "stream": False}
        async with self._within(UNLOAD_TIMEOUT_S):
            await self._ask("POST", "/api/generate", AnswerChunk, body, model=model)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _chunks(self, path: str, body: bytes, kind: type[Chunk]) -> AsyncGenerator[Chunk]:
        """Yield each line of the streamed answer to a POST of `body`.

        Raises:
            Refused: permanent; another status than 200, or an error line.
        """
        lines = JsonLines(kind)
        async with self._http.stream("POST", path, content=body, headers=_JSON) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                raise _refusal(response)
            async for piece in response.aiter_bytes():
                for chunk in lines.feed(piece):
                    yield _unfailed(chunk)
            for chunk in lines.feed(b"\n"):
                yield _unfailed(chunk)

    async def _ask(self, method: str, path: str, kind: type[T], body: Any = None, *, model: str | None = None) -> T:
        content = None if body is None else msgspec.json.encode(body)
        async with self._within(min(QUESTION_TIMEOUT_S, self._timeout_s)):
            response = await self._http.request(method, path, content=content, headers=_JSON)
            if response.status_code != httpx.codes.OK:
                raise self.failures.of_refusal(_refusal(response), model)
            try:
                return msgspec.json.decode(response.content, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise BadLine(f"{response.content[:80]!r} for {path} ({error})") from error

    @asynccontextmanager
    async def _within(self, total_s: float | None) -> AsyncIterator[None]:
        """Bound the time of the body, None: only that of a silence; translate the transport's errors."""
        try:
            async with asyncio.timeout(total_s):
                yield
        except (httpx.HTTPError, TimeoutError, BadLine) as error:
            raise self.failures.of_transport(error, total_s or self._timeout_s) from error


def _unfailed(chunk: Chunk) -> Chunk:
    if chunk.error is not None:
        raise Refused(httpx.codes.OK, chunk.error)
    return chunk


def _refusal(response: httpx.Response) -> Refused:
    try:
        said = msgspec.json.decode(response.content, type=ServerError).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = response.text
    return Refused(response.status_code, said)
