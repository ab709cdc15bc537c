"""The OpenAPI document of the gateway and the AsyncAPI document of the topics, made from the message structs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from streams.http.answers import RETRY_AFTER_S, STATUS
from streams.kafka.topics import Topics
from streams.messages import MetricsEvent, Request, Result

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
_REF = "#/components/schemas/{name}"
_NULL = {"type": "null"}

_EXAMPLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "text-generation": (
        "smollm2-135m-instruct",
        {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
        {"max_new_tokens": 32},
    ),
    "asr": ("whisper-base", {"audio": "s3://media/talk.flac"}, {"language": "en", "timestamps": "word"}),
    "audio-classification": ("ast-audioset", {"audio": "s3://media/street.wav"}, {"top_k": 3}),
    "video-analysis": ("videomae-kinetics", {"video": "s3://media/match.mp4"}, {"num_frames": 16}),
    "vlm": (
        "smolvlm-256m-instruct",
        {"image": "s3://media/photo.jpg", "prompt": "What is in this picture?"},
        {"max_new_tokens": 64},
    ),
    "ocr": ("pp-ocrv5-mobile", {"image": "s3://media/page.png"}, {}),
    "document-analysis": ("pp-ocrv5-mobile", {"document": "s3://media/contract.pdf", "pages": [1, 2]}, {}),
}
"""By task: an example of a model name, data and options."""


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
        "paths": {"/inference/infer": {"post": _infer(tasks)}, **_OTHER_PATHS},
        "components": {"schemas": schemas},
    }


def asyncapi_document(topic_prefix: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of the topics under `topic_prefix`, as a worker sees them.

    Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
    """
    topics = Topics(topic_prefix)
    parameter = {"task": {"description": "The task.", "enum": list(tasks)}}

    def channel(address: str, message: str) -> dict[str, Any]:
        messages = {message: {"$ref": f"#/components/messages/{message}"}}
        return {"address": address, "messages": messages, **({"parameters": parameter} if "{task}" in address else {})}

    def operation(action: str, channel_name: str, summary: str) -> dict[str, Any]:
        return {"action": action, "channel": {"$ref": f"#/channels/{channel_name}"}, "summary": summary}

    return {
        "asyncapi": "3.0.0",
        "info": {"title": "inferstream", "version": version("inferstream")},
        "defaultContentType": "application/json",
        "channels": {
            "requests": channel(topics.requests("{task}"), "Request"),
            "results": channel(topics.results("{task}"), "Result"),
            "deadLetters": channel(topics.dead_letters("{task}"), "DeadLetter"),
            "events": channel(topics.events, "MetricsEvent"),
        },
        "operations": {
            "takeRequests": operation("receive", "requests", "Answer the requests of a task."),
            "publishResults": operation("send", "results", "One result for each request, under its key."),
            "publishDeadLetters": operation("send", "deadLetters", "Messages that no request can be read from."),
            "publishEvents": operation("send", "events", "Outcomes, models and workers coming and going."),
        },
        "components": {
            "messages": {
                **{name: {"payload": _reference(name)} for name in ("Request", "Result", "MetricsEvent")},
                "DeadLetter": {"payload": {}, "description": "The original record, with headers `__dlq.errors.*`."},
            },
            "schemas": message_schemas(Request, Result, MetricsEvent),
        },
    }


def message_schemas(*messages: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the schemas of `messages` and of all that they refer to, by name.

    The schema of a request accepts what `streams.pipeline.decoding.decode_request` accepts, with two exceptions: a
    deadline written as text must be an RFC 3339 time (`format`, which not every validator checks), and a priority has
    no decimal point.
    """
    _, schemas = msgspec.json.schema_components(messages, ref_template=_REF)
    if Request in messages:
        _say_what_decoding_takes(schemas["Request"])
    return schemas


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _say_what_decoding_takes(request: dict[str, Any]) -> None:
    fields = request["properties"]
    time = next(way for way in fields["deadline"]["anyOf"] if way["type"] == "string")
    time["format"] = "date-time"
    fields["deadline"]["description"] = "RFC 3339 with an offset, or seconds since the epoch."
    for name in fields.keys() - set(request["required"]):
        fields[name] = _or_null(fields[name])


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` extended by null, which counts as not given."""
    if _NULL in schema.get("anyOf", ()):
        return schema
    beside: dict[str, Any] = {name: schema[name] for name in ("default", "description", "examples") if name in schema}
    values = {name: rule for name, rule in schema.items() if name not in beside}
    return {"anyOf": [values, _NULL], **beside}


def _operation(name: str, summary: str, *failures: int, **more: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": content},
            **{str(status): {"description": _MEANING[status]} for status in failures},
        },
        **more,
    }


_INCLUDE_WARM = {
    "name": "include_warm",
    "in": "query",
    "description": "Whether models that worker.warm names leave as well.",
    "schema": {"type": "boolean", "default": False},
}
_METRICS = {"200": {"description": "The metrics.", "content": {"text/plain": {}}}}

_OTHER_PATHS = {
    "/inference/tasks": {"get": _operation("listTasks", "Tasks with their engines, media fields and options.")},
    "/inference/models": {"get": _operation("listModels", "Models of the registry, and those in memory.", 503)},
    "/inference/stats": {"get": _operation("getStats", "Counts and latencies since the start.")},
    "/inference/cache": {
        "delete": _operation("clearCache", "Unload every model that is not in use.", parameters=[_INCLUDE_WARM])
    },
    "/healthz": {"get": _operation("isAlive", "Whether the process is alive.")},
    "/readyz": {"get": _operation("isReady", "Whether requests can be answered.", 503)},
    "/metrics": {"get": _operation("getMetrics", "Metrics in Prometheus' text format.", responses=_METRICS)},
    "/openapi.json": {"get": _operation("getOpenapi", "This document.")},
    "/asyncapi.json": {"get": _operation("getAsyncapi", "The topics and their messages.")},
}


def _infer(tasks: Sequence[str]) -> dict[str, Any]:
    result = {"application/json": {"schema": _reference("Result")}}
    told = 'Events `token` with {"text"} and, last, `result` with a Result.'
    events = {"text/event-stream": {"schema": {"type": "string", "description": told}}}
    wait = {"headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}}
    failures = {
        str(status): {"description": _MEANING[status], "content": result} | (wait if status in RETRY_AFTER_S else {})
        for status in sorted({*STATUS.values(), 408})
    }
    return _operation(
        "infer",
        "Answer one inference request.",
        description="With `Accept: text/event-stream` the text comes in pieces, then the whole result.",
        requestBody={
            "required": True,
            "content": {
                "application/json": {"schema": _reference("Request"), "examples": request_examples(tasks)},
                "multipart/form-data": {"schema": _form()},
            },
        },
        responses={"200": {"description": "The request was answered.", "content": {**result, **events}}, **failures},
    )


def _form() -> dict[str, Any]:
    about = {
        **dict.fromkeys(("data", "options", "metadata"), "A JSON object."),
        "deadline": "RFC 3339, or seconds since the epoch.",
        "priority": "0 to 9; 9 is the most urgent.",
    }
    names = [name for name in Request.__struct_fields__ if name != "reply_to"]
    fields = {name: {"description": about[name]} if name in about else {} for name in names}
    fields["request"] = {"description": "A Request as JSON."}
    return {
        "type": "object",
        "description": "Either `request`, or the fields of a request one by one; each file goes to the field of "
        "`data` that its part is named for.",
        "properties": {name: {"type": "string", **more} for name, more in fields.items()},
        "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
    }


def request_examples(tasks: Iterable[str]) -> dict[str, Any]:
    """Return an OpenAPI example of a request for each built-in task among `tasks`."""
    examples = {}
    for task in _EXAMPLES.keys() & set(tasks):
        model_name, data, options = _EXAMPLES[task]
        request = {"task": task, "engine": "transformers", "model_name": model_name}
        examples[task] = {"value": request | {"data": data, "options": options}}
    return examples
