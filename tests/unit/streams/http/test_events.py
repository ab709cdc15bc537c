"""Answers as server-sent events: their order, their failures, and callers who leave or do not read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers.errors import InferenceFailed, UnknownModel
from streams.http import answers, events
from tests.unit.streams.http.site import (
    SHOUT,
    HttpSite,
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
    until,
)

EVENTS = {"Accept": "text/event-stream"}


def parsed(body: str) -> list[tuple[str, Any]]:
    """Return the events of a stream; comments are left out."""
    found = []
    for block in body.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def stream(site: HttpSite, **changes: Any) -> httpx.Response:
    return await site.client.post("/inference/infer", json={**SHOUT, **changes}, headers=EVENTS)


async def test_tokens_come_in_order_and_the_result_comes_last(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.pieces = tuple(f"{number} ünï\n\n" for number in range(200))
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await stream(site, id="x-1")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    *tokens, (kind, result) = parsed(response.text)
    assert tokens == [("token", {"text": piece}) for piece in pipeline.pieces]
    assert kind == "result"
    assert (result["success"], result["id"], result["result"]["text"]) == (True, "x-1", "done")


async def test_tokens_arrive_before_the_answer_is_complete(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.pieces = ("early",)
    async with http_site(tmp_path, pipeline=pipeline) as site:
        async with site.client.stream("POST", "/inference/infer", json=SHOUT, headers=EVENTS) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "event: token"
            assert await anext(lines) == 'data: {"text":"early"}'
            pipeline.gate.set()
            rest = [line async for line in lines]
    assert "event: result" in rest


async def test_an_engine_that_cannot_stream_sends_the_result_alone(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await stream(site)
    [(kind, result)] = parsed(response.text)
    assert kind == "result"
    assert result["result"]["text"] == "HELLO"


async def test_a_request_that_fails_before_anything_was_sent_has_its_status(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        assert_failure(await stream(site, model_name="nobody"), 404, "UNKNOWN_MODEL")
        assert_failure(await stream(site, colour="red"), 400, "INVALID_REQUEST")


async def test_a_failure_after_the_first_token_is_the_last_event(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.pieces = ("half",)
    pipeline.reply = lambda request: InferenceFailed("the model broke")
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await stream(site)
    assert response.status_code == 200
    assert parsed(response.text)[0] == ("token", {"text": "half"})
    kind, result = parsed(response.text)[-1]
    assert (kind, result["success"], result["error"]["code"]) == ("result", False, "INFERENCE_FAILED")


async def test_comments_keep_the_connection_alive_while_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.01)
    pipeline = ScriptedPipeline()
    pipeline.reply = lambda request: UnknownModel("gone")
    async with http_site(tmp_path, pipeline=pipeline) as site:
        async with site.client.stream("POST", "/inference/infer", json=SHOUT, headers=EVENTS) as response:
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith(":")
            pipeline.gate.set()
            body = "\n".join([line async for line in lines])
    # The status went out with the first comment, so the failure can only be an event.
    [(kind, result)] = parsed(body)
    assert (kind, result["error"]["code"]) == ("result", "UNKNOWN_MODEL")


async def test_a_caller_who_leaves_in_the_middle_cancels_the_work(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.pieces = ("early",)
    async with http_site(tmp_path, pipeline=pipeline) as site:
        async with site.client.stream(
            "POST", "/inference/infer", json={**SHOUT, "id": "x-1"}, headers=EVENTS
        ) as response:
            assert await anext(response.aiter_lines()) == "event: token"
        await until(lambda: pipeline.cancelled == ["x-1"])
        await until(lambda: site.gateway.admission.present == 0)


async def test_a_caller_who_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "WRITE_TIMEOUT_S", 0.1)
    pipeline = ScriptedPipeline()
    pipeline.pieces = ("x" * 1_000_000,) * 40
    async with http_site(tmp_path, pipeline=pipeline) as site:
        body = json.dumps(SHOUT).encode()
        _, writer = await asyncio.open_connection(*site.address, limit=1024)
        writer.write(
            b"POST /inference/infer HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await until(lambda: pipeline.cancelled)
        await until(lambda: site.gateway.admission.present == 0)
        writer.transport.abort()
        assert (await site.client.get("/healthz")).status_code == 200


async def test_beyond_the_bound_a_stream_is_refused_with_its_status(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, settings_with(max_pending=1), pipeline=pipeline) as site:
        taken = asyncio.create_task(stream(site))
        await until(lambda: site.gateway.admission.pending == 1)
        assert_failure(await stream(site), 429, "BUSY")
        pipeline.gate.set()
        assert (await taken).status_code == 200


@pytest.mark.parametrize(
    ("accept", "asked"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream;q=0.5", True),
        ("Text/Event-Stream", True),
        ("application/json", False),
        ("*/*", False),
    ],
)
async def test_events_are_sent_only_to_those_who_name_them(tmp_path: Path, accept: str, asked: bool) -> None:
    async with http_site(tmp_path) as site:
        response = await site.client.post("/inference/infer", json=SHOUT, headers={"Accept": accept})
    assert response.headers["Content-Type"].startswith("text/event-stream") is asked
