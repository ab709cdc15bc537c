"""The OpenAPI and AsyncAPI documents: whole, consistent, and true to the gateway and the topics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers import model_registry
from streams.http.answers import STATUS
from streams.http.documents import asyncapi_document, openapi_document
from streams.kafka.topics import Topics
from tests.unit.streams.http.site import http_site

TASKS = ["asr", "text-generation"]
OPENAPI = openapi_document(TASKS)
ASYNCAPI = asyncapi_document("acme", TASKS)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def looked_up(document: Any, reference: str) -> Any:
    assert reference.startswith("#/")
    for name in reference[2:].split("/"):
        document = document[name]
    return document


@pytest.mark.parametrize("document", [OPENAPI, ASYNCAPI], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        assert looked_up(document, reference) is not None


def test_every_operation_of_the_openapi_document_is_described() -> None:
    assert re.fullmatch(r"3\.1\.\d+", OPENAPI["openapi"])
    assert {"title", "version"} <= OPENAPI["info"].keys()
    operations = [
        operation
        for path, item in OPENAPI["paths"].items()
        for method, operation in item.items()
        if path.startswith("/") and method in ("get", "post", "delete")
    ]
    assert len(operations) == sum(len(item) for item in OPENAPI["paths"].values())
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]


async def test_the_openapi_document_has_the_routes_of_the_gateway(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        served = (await site.client.get("/openapi.json")).json()
        routes = {
            (route.resource.canonical, route.method.lower())
            for route in site.gateway.application().router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    assert served == openapi_document(model_registry.tasks())
    assert {(path, method) for path, item in served["paths"].items() for method in item} == routes


def test_the_openapi_document_names_every_status_of_an_inference() -> None:
    responses = OPENAPI["paths"]["/inference/infer"]["post"]["responses"]
    assert set(responses) == {"200", "408", *(str(status) for status in STATUS.values())}
    assert "Retry-After" in responses["429"]["headers"]
    assert "text/event-stream" in responses["200"]["content"]


def test_the_schemas_of_the_openapi_document_are_those_of_the_messages() -> None:
    schemas = OPENAPI["components"]["schemas"]
    assert schemas["Request"]["required"] == ["task", "model_name", "data"]
    assert "reply_to" not in schemas["Request"]["properties"]
    assert {"success", "result", "error", "timings"} <= schemas["Result"]["properties"].keys()


def test_the_asyncapi_document_has_every_topic() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    addresses = {
        channel["address"].replace("{task}", task)
        for channel in ASYNCAPI["channels"].values()
        for task in channel.get("parameters", {}).get("task", {}).get("enum", [""])
    }
    assert addresses == set(Topics("acme").all_of(TASKS))
    for channel in ASYNCAPI["channels"].values():
        assert ("parameters" in channel) is ("{task}" in channel["address"])
        assert channel["messages"]
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] in ("send", "receive")


async def test_the_asyncapi_document_is_served(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        served = (await site.client.get("/asyncapi.json")).json()
    assert served == asyncapi_document("inference", model_registry.tasks())
