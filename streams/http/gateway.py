"""The gateway: HTTP routes over the parts of a runtime, on that runtime's event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, nullcontext
from functools import partial
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from engines.configuration import ConfigurationError
from handlers import model_registry
from handlers.errors import InferenceError, InvalidRequest, RegistryUnavailable, as_inference_error
from handlers.logger import get_logger
from streams.faults import contained
from streams.http.answers import Refusal, json_response, refused, status_of, writing_to
from streams.http.documents import asyncapi_document, openapi_document
from streams.http.inference import InferenceRoute
from streams.http.limits import ConcurrencyLimit, Connections, connections_allowed
from streams.http.listings import model_listing, task_listing
from streams.http.metrics import CONTENT_TYPE, Metrics
from streams.pipeline.runtime import Runtime
from streams.settings import DEFAULT_HTTP_PORT, Settings
from streams.stream_state import StreamState

log = get_logger(__name__)

_LAST_WRITES_S = 2.0
"""How long responses may still take to be written when no request is in work any more."""

_BAD = ("ok", "degraded", "error")
"""The possible values of a status, the worst last."""

_BACKLOG = 1024

_INFER = "/inference/infer"
_THREADS = 4
_REGISTRY_THREADS = 2

R = TypeVar("R")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Answers HTTP with the parts of one runtime, which must outlive it. Lives on the runtime's event loop."""

    def __init__(self, runtime: Runtime, settings: Settings, *, is_ready: bool = True) -> None:
        """`is_ready` is the initial value of the attribute that /readyz reports."""
        self.is_ready = is_ready
        self.stream: StreamState | None = None
        """The state of the worker's stream; None where this process has none."""
        self.url = ""
        self._runtime = runtime
        self._settings = settings
        self._tasks = model_registry.tasks()
        self.admission = ConcurrencyLimit(settings.http.max_pending)
        self.connections = Connections(connections_allowed(settings.http.max_connections))
        self._metrics = Metrics(
            runtime.manager,
            tasks=self._tasks,
            pending=lambda: self.admission.pending,
            waiting=lambda: runtime.batcher.depth,
        )
        # Few and separate: requests for the list of models block nothing else while MLflow hangs. The same holds for
        # health.
        self._threads = ThreadPoolExecutor(_THREADS, "http")
        self._registry_threads = ThreadPoolExecutor(_REGISTRY_THREADS, "http-models")
        self._health_thread = ThreadPoolExecutor(1, "http-health")
        self._checking: asyncio.Future[dict[str, Any]] | None = None
        self._inference = InferenceRoute(runtime, settings, self.admission, self._metrics, self.connections)

    def application(self) -> web.Application:
        """Return a new application with all routes."""
        app = web.Application(middlewares=[self._failures_as_results])
        app.router.add_post(_INFER, self._inference.post)
        app.router.add_get("/inference/tasks", self._get_tasks)
        app.router.add_get("/inference/models", self._get_models)
        app.router.add_get("/inference/stats", self._get_stats)
        app.router.add_delete("/inference/cache", self._delete_cache)
        app.router.add_get("/healthz", self._get_healthz)
        app.router.add_get("/readyz", self._get_readyz)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/openapi.json", self._get_openapi)
        app.router.add_get("/asyncapi.json", self._get_asyncapi)
        return app

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests with 503 and wait for those under way."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.admission.drained()
        except TimeoutError:
            log.warning("http_drain_timed_out", in_work=self.admission.present, drain_timeout_s=timeout_s)

    def close(self) -> None:
        """Release the threads; a call that still runs ends by itself."""
        for threads in (self._threads, self._registry_threads, self._health_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _get_tasks(self, http: web.Request) -> web.Response:
        return json_response(await self._in_thread(task_listing, self._runtime.manager, self._tasks))

    async def _get_models(self, http: web.Request) -> web.Response:
        mlflow, manager = self._settings.mlflow, self._runtime.manager
        await asyncio.to_thread(contained, manager.models.connect)
        try:
            async with asyncio.timeout(mlflow.timeout_s):
                listing = await self._in_thread(model_listing, manager, threads=self._registry_threads)
        except TimeoutError:
            raise RegistryUnavailable(
                f"the model registry did not list its models within mlflow.timeout_s={mlflow.timeout_s:g}; check that "
                f"MLflow runs at mlflow.tracking_uri ({mlflow.shown_uri}), then try again"
            ) from None
        return json_response(listing)

    async def _get_stats(self, http: web.Request) -> web.Response:
        return json_response(await self._in_thread(self._runtime.manager.get_stats))

    async def _delete_cache(self, http: web.Request) -> web.Response:
        if unknown := sorted(http.query.keys() - {"include_warm"}):
            raise InvalidRequest(f"there is no parameter {unknown[0]!r:.60}; include_warm is the only one")
        include_warm = http.query.get("include_warm", "false")
        if include_warm not in ("true", "false"):
            raise InvalidRequest(f"include_warm is true or false; got {include_warm!r:.60}")
        clear = partial(self._runtime.manager.clear_cache, include_warm=include_warm == "true")
        return json_response(await self._in_thread(clear))

    async def _get_healthz(self, http: web.Request) -> web.Response:
        """Answer that the event loop runs; nothing else is checked, so nothing else can fail it."""
        return json_response({"status": "ok"})

    async def _get_readyz(self, http: web.Request) -> web.Response:
        if self.admission.is_stopping:
            return json_response({"status": "stopping"}, status=503)
        if not self.is_ready:
            kafka = {} if self.stream is None else {"kafka": self.stream.report()}
            return json_response({"status": "starting", "components": kafka}, status=503)
        report = await self._health()
        if self.stream is not None:
            stream = self.stream.report()
            report = {
                "status": max(report["status"], stream["status"], key=_BAD.index),
                "components": {**report["components"], "kafka": stream},
            }
        return json_response(report, status=503 if report["status"] == "error" else 200)

    async def _get_metrics(self, http: web.Request) -> web.Response:
        stream = None if self.stream is None else self.stream.report()  # on this loop, where it lives
        text = await self._in_thread(self._metrics.text, stream)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _get_openapi(self, http: web.Request) -> web.Response:
        return json_response(openapi_document(self._tasks))

    async def _get_asyncapi(self, http: web.Request) -> web.Response:
        return json_response(asyncapi_document(self._settings.kafka.topic_prefix, self._tasks))

    async def _health(self) -> dict[str, Any]:
        """Return the health of the parts; concurrent callers share one check."""
        if self._checking is None or self._checking.done():
            check = self._in_thread(self._runtime.manager.health_check, threads=self._health_thread)
            self._checking = asyncio.ensure_future(check)
        return await asyncio.shield(self._checking)

    async def _in_thread(self, call: Callable[..., R], *arguments: Any, threads: ThreadPoolExecutor | None = None) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads or self._threads, contained, call, *arguments)

    @web.middleware
    async def _failures_as_results(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer any exception with an ordinary result, never with a stack trace or an HTML page."""
        headers: dict[str, str] = {}
        error: InferenceError
        try:
            # The inference route counts itself as soon as its body has arrived.
            with nullcontext() if request.path == _INFER else self.connections.answering(request):
                response = await handler(request)
            with self.connections.answering(request):
                async with writing_to(request):
                    await response.prepare(request)
                    await response.write_eof()
                    await request.writer.drain()  # until the operating system has taken nearly all of it
            return response
        except InferenceError as failure:
            error = failure
        except web.HTTPNotFound:
            error = Refusal(404, f"there is nothing at {request.path}; see /openapi.json")
        except web.HTTPMethodNotAllowed as failure:
            headers["Allow"] = takes = ", ".join(sorted(failure.allowed_methods))
            error = Refusal(405, f"{request.path} does not take {request.method}; it takes {takes}")
        except web.HTTPException as failure:
            error = Refusal(failure.status, failure.reason)
        except ConnectionError:
            return web.Response(status=499)  # not read: the caller has gone
        except Exception as failure:
            log.exception("http_request_failed", method=request.method, path=request.path)
            error = as_inference_error(failure)
        result, status = refused(error, worker=self._settings.worker.name), status_of(error)
        if status >= 500 and request.path == _INFER:
            self._runtime.manager.outcomes.refused(result)
        return json_response(result, status=status, headers=headers)


@asynccontextmanager
async def start_gateway(runtime: Runtime, settings: Settings, *, is_ready: bool = True) -> AsyncIterator[Gateway]:
    """Listen at http.host and http.port during the block; `gateway.url` is the address.

    At the end new requests get 503, those under way are answered within worker.drain_timeout_s, and the port is
    closed. Call `gateway.drain` to refuse requests earlier, while the block still runs.

    Raises:
        ConfigurationError: permanent; the address cannot be listened on.
    """
    gateway = Gateway(runtime, settings, is_ready=is_ready)
    # Its tracebacks about bytes that are not HTTP would fill the log.
    logging.getLogger("aiohttp.server").addFilter(_shorten_what_is_not_http)
    runner = web.AppRunner(
        gateway.application(),
        handle_signals=False,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_LAST_WRITES_S,
    )
    await runner.setup()
    assert runner.server is not None
    accept = partial(gateway.connections.accept, runner.server)
    try:
        with closing(await _listen(accept, settings)) as listening:
            host, port = listening.sockets[0].getsockname()[:2]
            gateway.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("http_listening", url=gateway.url)
            yield gateway
            await gateway.drain(settings.worker.drain_timeout_s)
    finally:
        await runner.cleanup()
        gateway.close()


def _shorten_what_is_not_http(record: logging.LogRecord) -> bool:
    """Make one log line of the server's traceback about bytes that are not HTTP, or not what their header says."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        record.msg, record.args, record.exc_info = "http_request_not_readable", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


async def _listen(accept: Callable[[], asyncio.BaseProtocol], settings: Settings) -> asyncio.Server:
    host = settings.http.host
    port = DEFAULT_HTTP_PORT if settings.http.port is None else settings.http.port
    try:
        loop = asyncio.get_running_loop()
        return await loop.create_server(accept, host, port, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            [
                f"cannot listen on {host}:{port}: {error.strerror or error}; set http.port to a free port (0 takes "
                "any), or http.host to an address of this machine"
            ]
        ) from None
