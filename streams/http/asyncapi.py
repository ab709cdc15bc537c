"""The AsyncAPI document of the topics, made from their names and the message structs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from streams.http.openapi import message_schemas, reference
from streams.kafka.topics import Topics
from streams.messages import MetricsEvent, Request, Result


def asyncapi_document(topic_prefix: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of the topics under `topic_prefix`, as a worker sees them.

    Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
    """
    topics = Topics(topic_prefix)
    parameter = {"task": {"description": "The task.", "enum": list(tasks)}}

    def channel(address: str, message: str) -> dict[str, Any]:
        refers = {"$ref": f"#/components/messages/{message}"}
        about: dict[str, Any] = {"address": address, "messages": {message: refers}}
        return about | ({"parameters": parameter} if "{task}" in address else {})

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
            "publishDeadLetters": operation(
                "send", "deadLetters", "Messages that no request can be read from."
            ),
            "publishEvents": operation("send", "events", "Outcomes, models and workers coming and going."),
        },
        "components": {
            "messages": {
                **{name: {"payload": reference(name)} for name in ("Request", "Result", "MetricsEvent")},
                "DeadLetter": {
                    "payload": {},
                    "description": "The original record, with headers `__dlq.errors.*`.",
                },
            },
            "schemas": message_schemas(Request, Result, MetricsEvent),
        },
    }
