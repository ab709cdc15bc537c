"""POST /inference/infer: takes a request and returns its result, as one JSON object or as events."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import msgspec
from aiohttp import web

from engines.base import Emit
from handlers.errors import DeadlineExceeded, InferenceError, InvalidInput, InvalidRequest, MediaForbidden
from streams.faults import contained
from streams.http.answers import json_response, refused, result_response, status_of
from streams.http.bodies import Body, BodyBudget, Form, arriving_within, read_form, with_files
from streams.http.events import accepts_events, stream_answer
from streams.http.limits import ConcurrencyLimit, Connections
from streams.http.metrics import Metrics
from streams.media.addresses import ACCEPTED_OVER_HTTP, scheme_of, shown
from streams.messages import Request, Result, encode_result
from streams.pipeline.decoding import decode_request, known_fields
from streams.pipeline.pipeline import Patience
from streams.pipeline.runtime import Runtime
from streams.settings import Settings


class InferenceRoute:
    """Takes requests over HTTP through the pipeline. Lives on one event loop.

    A caller who closes the connection cancels the work on its request and on no other.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: Settings,
        admission: ConcurrencyLimit,
        metrics: Metrics,
        connections: Connections,
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._http = settings.http
        self._admission = admission
        self._metrics = metrics
        self._connections = connections
        self._patience = Patience(
            settings.http.request_timeout_s,
            DeadlineExceeded(
                f"no answer within http.request_timeout_s={settings.http.request_timeout_s:g}; ask for less, or send "
                "long work through Kafka"
            ),
        )
        self._media_fields: dict[str, tuple[str, ...]] = {}
        # The largest body allowed always fits.
        self._budget = BodyBudget(max(settings.worker.max_in_flight_bytes, settings.http.max_body_bytes))

    async def post(self, http: web.Request) -> web.StreamResponse:
        """Answer one request; never raises for one that fails."""
        arrived = time.monotonic()
        known: dict[str, Any] = {}
        try:
            with self._admission.entering(), Body(http, self._http.max_body_bytes, self._budget) as body:
                request = await self._read(body, known)
                with self._connections.answering(http):
                    return await self._answer(http, request, arrived)
        except InferenceError as error:
            result = refused(error, worker=self._settings.worker.name, known=known, queue_s=time.monotonic() - arrived)
            status = status_of(error)
        self._runtime.manager.outcomes.refused(result)
        self._metrics.answered(result, time.monotonic() - arrived)
        response = json_response(result, status=status)
        if self._admission.is_stopping:
            response.force_close()
        return response

    async def _answer(self, http: web.Request, request: Request, arrived: float) -> web.StreamResponse:
        async def answer(emit: Emit | None = None) -> tuple[Result, bytes]:
            """Return the result to send, and its bytes."""
            with self._admission.working():
                queue_s = time.monotonic() - arrived
                result = await self._runtime.pipeline.answer(
                    request, queue_s=queue_s, emit=emit, patience=self._patience
                )
            self._metrics.answered(result, time.monotonic() - arrived)
            sent, body = encode_result(result)
            if sent is not result:
                self._runtime.manager.outcomes.replaced(result, sent)
            return sent, body

        if accepts_events(http):
            return await stream_answer(http, answer)
        return result_response(*await answer())

    async def _read(self, body: Body, known: dict[str, Any]) -> Request:
        """Return the request in `body`; the readable fields of an invalid one go into `known`."""
        body.check()
        form = Form()
        async with arriving_within(self._http.body_timeout_s):
            if body.request.content_type.startswith("multipart/"):
                form = await read_form(body, max_media_bytes=self._settings.media.max_bytes)
                value = form.request_json()
            else:
                value = await body.read()
        try:
            request = decode_request(value)
        except InferenceError:
            known.update(known_fields(value))
            raise
        if not request.id:
            request = msgspec.structs.replace(request, id=uuid.uuid4().hex)
        known.update(msgspec.structs.asdict(request))
        if request.reply_to is not None:
            raise InvalidRequest("reply_to is for requests on Kafka; the answer to this one is the response")
        media_fields = self._media_fields.get(request.task)
        if media_fields is None:
            # In a thread: the first use of a handler imports the libraries that decode its media.
            handler = await asyncio.to_thread(contained, self._runtime.manager.handlers.get, request.task)
            media_fields = self._media_fields[request.task] = handler.media_fields
        _refuse_local_paths(request, media_fields)
        return with_files(request, form, media_fields)


def _refuse_local_paths(request: Request, media_fields: tuple[str, ...]) -> None:
    """Refuse paths of this machine even under media.allowed_roots: those are only for requests on Kafka."""
    for field in media_fields:
        value = request.data.get(field)
        for address in value if isinstance(value, list) else [value]:
            if not isinstance(address, str):
                continue
            try:
                scheme = scheme_of(address, accepted=ACCEPTED_OVER_HTTP)
            except InvalidInput as error:
                raise InvalidInput(f"data.{field}: {error.message}") from None
            if scheme in ("", "file"):
                raise MediaForbidden(
                    f"data.{field}: {shown(address)} is a path, and none is read for HTTP callers; upload the file as "
                    "multipart/form-data, or put it on S3 and send the s3:// address"
                )
