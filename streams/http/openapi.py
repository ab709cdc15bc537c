"""The OpenAPI document of the gateway, made from the message structs and the table of statuses."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from streams.http.examples import request_examples
from streams.http.message_schemas import message_schemas, reference
from streams.http.status import STATUS
from streams.messages import Request, Result

_MEANING = {
    400: "The request, an input, an option or a media value is wrong.",
    404: "The registry has no such model.",
    408: "The body did not arrive in time.",
    413: "The body, a media value or the result is too large.",
    429: "Too many requests are in work.",
    500: "The model or the worker failed.",
    503: "The worker is stopping, or the engine, the registry or the store is away.",
    504: "The deadline has passed.",
}
_RETRIED = (429, 503)


def openapi_document(tasks: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; `tasks` are those that requests may name.

    Source: https://spec.openapis.org/oas/v3.1.1.html
    """
    schemas = message_schemas(Request, Result)
    request = schemas["Request"]
    del request["properties"]["reply_to"]  # for requests on Kafka
    request["properties"]["task"]["examples"] = list(tasks)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "inferstream",
            "version": version("inferstream"),
            "description": "Inference over HTTP, through the same pipeline as on Kafka.",
        },
        "paths": {
            "/inference/infer": {"post": _infer(tasks)},
            "/inference/tasks": {
                "get": _get("listTasks", "Tasks with their engines, media fields and options.")
            },
            "/inference/models": {
                "get": _get("listModels", "Models of the registry, and those in memory.", 503)
            },
            "/inference/stats": {"get": _get("getStats", "Counts and latencies since the start.")},
            "/inference/cache": {
                "delete": {
                    **_get("clearCache", "Unload every model that nobody uses."),
                    "parameters": [_INCLUDE_WARM],
                }
            },
            "/healthz": {"get": _get("isAlive", "Whether the process is alive.")},
            "/readyz": {"get": _get("isReady", "Whether requests can be answered.", 503)},
            "/metrics": {
                "get": {
                    "operationId": "getMetrics",
                    "summary": "Metrics in Prometheus' text format.",
                    "responses": {"200": {"description": "The metrics.", "content": {"text/plain": {}}}},
                }
            },
            "/openapi.json": {"get": _get("getOpenapi", "This document.")},
            "/asyncapi.json": {"get": _get("getAsyncapi", "The topics and their messages.")},
        },
        "components": {"schemas": schemas},
    }


_INCLUDE_WARM = {
    "name": "include_warm",
    "in": "query",
    "description": "Whether models that worker.warm names leave as well.",
    "schema": {"type": "boolean", "default": False},
}


def _infer(tasks: Sequence[str]) -> dict[str, Any]:
    failures = {str(status): _failure(status) for status in sorted({*STATUS.values(), 408})}
    result = {"application/json": {"schema": reference("Result")}}
    events = {
        "text/event-stream": {
            "schema": {
                "type": "string",
                "description": 'Events `token` with {"text"} and, last, `result` with a Result.',
            }
        }
    }
    return {
        "operationId": "infer",
        "summary": "Answer one inference request.",
        "description": "With `Accept: text/event-stream` the text comes in pieces, then the whole result.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": reference("Request"),
                    "examples": request_examples(tasks),
                },
                "multipart/form-data": {"schema": _form()},
            },
        },
        "responses": {
            "200": {"description": "The request was answered.", "content": {**result, **events}},
            **failures,
        },
    }


def _form() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Either `request`, or the fields of a request one by one; each file goes to the field of "
        "`data` that its part is named for.",
        "properties": {
            "request": {"type": "string", "description": "A Request as JSON."},
            "task": {"type": "string"},
            "engine": {"type": "string"},
            "model_name": {"type": "string"},
            "data": {"type": "string", "description": "A JSON object."},
            "options": {"type": "string", "description": "A JSON object."},
            "id": {"type": "string"},
            "deadline": {"type": "string", "description": "RFC 3339, or seconds since the epoch."},
            "priority": {"type": "string", "description": "0 to 9; 9 is the most urgent."},
            "metadata": {"type": "string", "description": "A JSON object."},
        },
        "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
    }


def _failure(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": _MEANING[status],
        "content": {"application/json": {"schema": reference("Result")}},
    }
    if status in _RETRIED:
        answer["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        }
    return answer


def _get(operation: str, summary: str, *failures: int) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": {"type": "object"}}}},
            **{str(status): {"description": _MEANING[status]} for status in failures},
        },
    }
