"""POST /inference/infer: what comes back, and with which status."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import InferenceError, RegistryUnavailable, ResultTooLarge
from streams.messages import decode_result
from tests.unit.streams.http.site import (
    DEEP,
    SHOUT,
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
    until,
)


async def test_a_request_is_answered_with_its_result(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await site.infer(id="x-1", metadata={"batch": 7})
    assert response.status_code == 200
    result = decode_result(response.content)
    assert result.success
    assert result.result == {"text": "HELLO", "metadata": {"length": 5}}
    assert (result.id, result.model_version, result.metadata) == ("x-1", "3", {"batch": 7})
    assert result.worker == "w1"
    assert result.timings["queue"] >= 0


async def test_a_request_without_an_id_gets_one(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        ids = [(await site.infer()).json()["id"] for _ in range(2)]
    assert all(ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"task": "sing"}, 400, "UNKNOWN_TASK"),
        ({"engine": "steam"}, 400, "UNKNOWN_ENGINE"),
        ({"model_name": "nobody"}, 404, "UNKNOWN_MODEL"),
        ({"model_name": "other-task"}, 400, "MODEL_MISMATCH"),
        ({"data": {}}, 400, "INVALID_INPUT"),
        ({"data": {"media": "gopher://x/y"}}, 400, "INVALID_INPUT"),
        ({"data": {"media": "data:text/plain;base64,%%%"}}, 400, "MEDIA_CORRUPT"),
        ({"data": {"media": "https://example.org/x"}}, 400, "MEDIA_FORBIDDEN"),
        ({"options": {"temperature": -1}}, 400, "INVALID_OPTION"),
        ({"colour": "red"}, 400, "INVALID_REQUEST"),
        ({"data": "text"}, 400, "INVALID_REQUEST"),
        ({"priority": 10}, 400, "INVALID_REQUEST"),
        ({"reply_to": "elsewhere"}, 400, "INVALID_REQUEST"),
        ({"deadline": 1}, 504, "DEADLINE_EXCEEDED"),
        ({"data": {"text": "engine-bug"}}, 500, "INFERENCE_FAILED"),
        ({"data": {"text": "preprocess-bug"}}, 500, "INTERNAL_ERROR"),
    ],
)
@pytest.mark.logs_errors("inference_failed", "stage_failed")
async def test_a_request_that_fails_has_the_status_of_its_error_and_is_told_by_its_id(
    tmp_path: Path, changes: dict[str, Any], status: int, code: str
) -> None:
    async with http_site(tmp_path) as site:
        response = await site.infer(**{"id": "x-1", "metadata": {"batch": 7}, **changes})
    assert_failure(response, status, code)
    assert (response.json()["id"], response.json()["metadata"]) == ("x-1", {"batch": 7})


@pytest.mark.parametrize("body", [DEEP.encode(), b"", b"hello", b"[1, 2]", b"\xff\xfe", b'{"task": '])
async def test_a_body_that_is_no_request_is_undecodable(tmp_path: Path, body: bytes) -> None:
    async with http_site(tmp_path) as site:
        assert_failure(await site.client.post("/inference/infer", content=body), 400, "UNDECODABLE")


async def test_what_can_be_retried_says_when(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        site.bench.models.resolve_error = RegistryUnavailable("MLflow is away")
        response = await site.infer()
    error = assert_failure(response, 503, "REGISTRY_UNAVAILABLE")
    assert error["retryable"] is True
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("address", ["/etc/hostname", "file:///etc/hostname"])
async def test_no_path_is_read_for_an_http_caller_even_under_an_allowed_root(tmp_path: Path, address: str) -> None:
    settings = settings_with()
    media = settings.media.model_copy(update={"allowed_roots": (Path("/etc"),)})
    async with http_site(tmp_path, settings.model_copy(update={"media": media})) as site:
        for data in ({"media": address}, {"more": ["data:,x", address]}):
            error = assert_failure(await site.infer(data=data), 400, "MEDIA_FORBIDDEN")
            assert address in error["message"]


async def test_beyond_the_bound_requests_are_refused_as_busy(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, settings_with(max_pending=2), pipeline=pipeline) as site:
        taken = [asyncio.create_task(site.infer()) for _ in range(2)]
        await until(lambda: site.gateway.admission.pending == 2)
        refused = await site.infer(id="x-1")
        error = assert_failure(refused, 429, "BUSY")
        assert error["retryable"] is True
        assert "http.max_pending allows 2" in error["message"]
        assert int(refused.headers["Retry-After"]) > 0
        pipeline.gate.set()
        assert [response.status_code for response in await asyncio.gather(*taken)] == [200, 200]
        assert (await site.infer()).status_code == 200


async def test_a_connection_shut_down_on_the_side_of_its_caller_is_a_closed_one(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    body = json.dumps({**SHOUT, "id": "half"}).encode()
    async with http_site(tmp_path, pipeline=pipeline) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        head = f"POST /inference/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await until(lambda: pipeline.requests)
        writer.write_eof()
        assert await reader.read() == b""
        await until(lambda: pipeline.cancelled == ["half"])
        writer.close()


async def test_a_closed_connection_cancels_its_request_and_no_other(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, pipeline=pipeline) as site:
        stays = asyncio.create_task(site.infer(id="stays"))
        await until(lambda: len(pipeline.requests) == 1)
        leaves = asyncio.create_task(site.infer(id="leaves"))
        await until(lambda: len(pipeline.requests) == 2)
        leaves.cancel()
        await until(lambda: pipeline.cancelled)
        assert pipeline.cancelled == ["leaves"]
        await until(lambda: site.gateway.admission.present == 1)
        pipeline.gate.set()
        assert (await stays).json()["id"] == "stays"
        assert pipeline.cancelled == ["leaves"]
    assert site.gateway.admission.pending == 0


@pytest.mark.waits
async def test_work_that_takes_too_long_ends_with_504_and_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, gate = threading.Event(), threading.Event()

    def infer(*_: Any) -> dict[str, Any]:
        began.set()
        assert gate.wait(60)
        return {"shouted": "LATE"}

    async with http_site(tmp_path, settings_with(request_timeout_s=3)) as site:
        while (await site.infer()).status_code != 200:  # loads the model, which may take all of the time
            pass
        before = site.bench.manager.get_stats()
        monkeypatch.setattr(site.bench.engine, "infer", infer)
        try:
            response = await site.infer(id="x-1")
        finally:
            gate.set()
        stats = site.bench.manager.get_stats()
    error = assert_failure(response, 504, "DEADLINE_EXCEEDED")
    assert "http.request_timeout_s=3" in error["message"]
    result = response.json()
    assert result["model_version"] == "3"
    assert began.is_set()
    assert result["timings"]["resolve"] > 0
    assert result["timings"]["infer"] > 0
    assert sum(result["timings"].values()) >= result["processing_time"]
    assert stats["total_inferences"] == before["total_inferences"] + 1
    assert stats["failed_inferences"] == before["failed_inferences"] + 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("text", [object(), "\ud800", 10**5000], ids=["object", "surrogate", "integer"])
@pytest.mark.logs_errors("result_not_encodable")
async def test_a_result_without_a_json_form_is_an_internal_error(tmp_path: Path, text: Any, accept: str) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.reply = lambda request: {"text": text}
    async with http_site(tmp_path, pipeline=pipeline) as site:
        site.client.headers["Accept"] = accept
        response = await site.infer(id="x-1")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "INTERNAL_ERROR"
    assert response.json()["id"] == "x-1"


@pytest.mark.parametrize("depth", [300, 900])
async def test_metadata_too_deep_for_a_result_are_refused_by_their_id(tmp_path: Path, depth: int) -> None:
    metadata = '{"a":' * depth + "1" + "}" * depth
    async with http_site(tmp_path) as site:
        response = await site.client.post(
            "/inference/infer", content=json.dumps(SHOUT | {"id": "x-1"})[:-1] + f', "metadata": {metadata}}}'
        )
    assert "metadata" in assert_failure(response, 400, "INVALID_REQUEST")["message"]
    assert (response.json()["id"], response.json()["metadata"]) == ("x-1", {})


async def test_null_in_an_optional_field_counts_as_not_given(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await site.infer(options=None, metadata=None, id=None, priority=None, deadline=None)
    assert response.status_code == 200, response.text
    assert (response.json()["metadata"], len(response.json()["id"])) == ({}, 32)


@pytest.mark.parametrize("error", [ResultTooLarge("too large"), InferenceError("whatever")])
async def test_any_failure_of_the_pipeline_finds_its_status(tmp_path: Path, error: InferenceError) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.reply = lambda request: error
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await site.infer()
    assert response.json()["error"]["code"] == error.code
    assert response.status_code == (413 if error.code == "RESULT_TOO_LARGE" else 500)


@pytest.mark.logs_errors("http_request_failed")
async def test_a_bug_in_the_gateway_is_an_internal_error_that_hides_its_details(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()

    def broken(request: Any) -> dict[str, Any]:
        raise KeyError("secret detail")

    pipeline.reply = broken
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await site.infer()
        assert_failure(response, 500, "INTERNAL_ERROR")
    assert "secret detail" not in response.text


@pytest.mark.logs_errors("http_request_failed")
async def test_a_gateway_without_memory_says_that_the_request_may_be_sent_again(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()

    def hungry(request: Any) -> dict[str, Any]:
        raise MemoryError

    pipeline.reply = hungry
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await site.infer()
        assert_failure(response, 503, "OUT_OF_MEMORY")
    assert int(response.headers["Retry-After"]) > 0


async def test_a_large_result_arrives_whole(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.reply = lambda request: {"text": "ü" * 4_000_000}
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await site.infer()
    assert response.json()["result"]["text"] == "ü" * 4_000_000
