"""POST /inference/infer: what comes back, with which status, and what bounds it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers.errors import InferenceError, RegistryUnavailable, ResultTooLarge
from handlers.media import Media
from streams.messages import decode_result
from tests.unit.streams.http.site import (
    SHOUT,
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
    until,
)

DEEP = '{"a":' * 5000 + "1" + "}" * 5000


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


async def test_a_body_that_is_not_compressed_as_it_says_is_refused(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await site.client.post(
            "/inference/infer", content=b"no gzip at all", headers={"Content-Encoding": "gzip"}
        )
        assert_failure(response, 400, "INVALID_REQUEST")


async def test_what_can_be_retried_says_when(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        site.bench.models.resolve_error = RegistryUnavailable("MLflow is away")
        response = await site.infer()
    error = assert_failure(response, 503, "REGISTRY_UNAVAILABLE")
    assert error["retryable"] is True
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("address", ["/etc/hostname", "file:///etc/hostname"])
async def test_no_path_is_read_for_an_http_caller_even_under_an_allowed_root(
    tmp_path: Path, address: str
) -> None:
    settings = settings_with()
    media = settings.media.model_copy(update={"allowed_roots": (Path("/etc"),)})
    async with http_site(tmp_path, settings.model_copy(update={"media": media})) as site:
        for data in ({"media": address}, {"more": ["data:,x", address]}):
            error = assert_failure(await site.infer(data=data), 400, "MEDIA_FORBIDDEN")
            assert address in error["message"]


async def test_a_body_above_the_limit_is_refused_from_its_content_length(tmp_path: Path) -> None:
    async with http_site(tmp_path, settings_with(max_body_bytes=1000)) as site:
        response = await site.infer(data={"text": "x" * 1000})
    error = assert_failure(response, 413, "INVALID_REQUEST")
    assert "http.max_body_bytes allows 1000" in error["message"]


async def test_a_body_above_the_limit_is_refused_while_it_arrives_without_a_length(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield b" " * 10_000
            await asyncio.sleep(0)

    async with http_site(tmp_path, settings_with(max_body_bytes=50_000)) as site:
        # The answer comes while the body is still being sent, which only a reader beside the writer sees.
        reader, writer = await asyncio.open_connection(*site.address)
        writer.write(b"POST /inference/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def send() -> None:
            async for chunk in endless():
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()

        sending = asyncio.create_task(send())
        status = await asyncio.wait_for(reader.readline(), 20)
        sending.cancel()
        await asyncio.wait([sending])
        writer.close()
        assert status.split()[1] == b"413"
        await until(lambda: site.gateway.admission.present == 0)


async def test_a_compressed_body_counts_with_what_it_becomes(tmp_path: Path) -> None:
    import gzip

    bomb = gzip.compress(b" " * 10_000_000)
    async with http_site(tmp_path, settings_with(max_body_bytes=100_000)) as site:
        assert len(bomb) < 100_000
        response = await site.client.post(
            "/inference/infer", content=bomb, headers={"Content-Encoding": "gzip"}
        )
        assert response.status_code == 413


async def test_bodies_that_together_take_too_much_memory_are_refused_as_busy(tmp_path: Path) -> None:
    settings = settings_with(max_body_bytes=1000)
    worker = settings.worker.model_copy(update={"max_in_flight_bytes": 1})
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, settings.model_copy(update={"worker": worker}), pipeline=pipeline) as site:
        first = asyncio.create_task(site.infer(data={"text": "x" * 600}))
        await pipeline.started.wait()
        response = await site.infer(data={"text": "x" * 600})
        assert_failure(response, 429, "BUSY")
        assert "Retry-After" in response.headers
        pipeline.gate.set()
        assert (await first).status_code == 200
        assert (await site.infer(data={"text": "x" * 600})).status_code == 200


async def test_a_slow_uploader_is_cut_off_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    settings = settings_with(body_timeout_s=0.5, max_pending=1)
    async with http_site(tmp_path, settings) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        writer.write(b"POST /inference/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        await until(lambda: site.gateway.admission.present == 1)
        assert (await site.infer()).status_code == 200
        status = await asyncio.wait_for(reader.readline(), 20)
        assert status.split()[1] == b"408"
        writer.close()
        await until(lambda: site.gateway.admission.present == 0)


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


async def test_work_that_takes_too_long_ends_with_504_and_is_counted(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, settings_with(request_timeout_s=0.1), pipeline=pipeline) as site:
        error = assert_failure(await site.infer(id="x-1"), 504, "DEADLINE_EXCEEDED")
        assert "http.request_timeout_s=0.1" in error["message"]
        stats = site.bench.manager.get_stats()
    assert pipeline.cancelled == ["x-1"]
    assert (stats["total_inferences"], stats["failed_inferences"]) == (1, 1)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("text", [object(), "\ud800", 10**5000], ids=["object", "surrogate", "integer"])
async def test_a_result_without_a_json_form_is_an_internal_error(
    tmp_path: Path, text: Any, accept: str
) -> None:
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


async def test_a_large_result_arrives_whole(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    pipeline.reply = lambda request: {"text": "ü" * 4_000_000}
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await site.infer()
    assert response.json()["result"]["text"] == "ü" * 4_000_000


async def post_form(
    client: httpx.AsyncClient, fields: dict[str, str] | None = None, files: Any = None
) -> httpx.Response:
    return await client.post("/inference/infer", data=fields, files=files)


FIELDS = {name: SHOUT[name] for name in ("task", "engine", "model_name")}


async def test_an_uploaded_file_becomes_the_media_of_its_field(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    async with http_site(tmp_path, pipeline=pipeline) as site:
        response = await post_form(
            site.client,
            {**FIELDS, "id": "x-1", "options": '{"top_k": 3}', "data": '{"text": "a"}', "priority": "7"},
            {"media": ("täst.wav", b"\x00\r\n--bytes\xff", "audio/wav")},
        )
    assert response.status_code == 200, response.text
    [request] = pipeline.requests
    assert (request.id, request.options, request.priority) == ("x-1", {"top_k": 3}, 7)
    assert request.data == {
        "text": "a",
        "media": Media(b"\x00\r\n--bytes\xff", request.data["media"].source, "audio/wav"),
    }
    assert "uploaded file" in request.data["media"].source


async def test_an_upload_goes_through_the_real_pipeline(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await post_form(site.client, FIELDS, {"media": ("a.txt", b"hello")})
    assert response.json()["result"]["text"] == "HELLO"


@pytest.mark.parametrize("with_data", [True, False])
async def test_a_part_may_hold_the_whole_request(tmp_path: Path, with_data: bool) -> None:
    async with http_site(tmp_path) as site:
        request = {**FIELDS, "id": "x-1", **({"data": {}} if with_data else {})}
        response = await post_form(
            site.client, {"request": json.dumps(request)}, {"media": ("a.txt", b"hello")}
        )
    assert response.json()["result"]["text"] == "HELLO"
    assert response.json()["id"] == "x-1"


async def test_a_field_given_several_times_is_a_list_in_order(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline()
    pipeline.gate.set()
    async with http_site(tmp_path, pipeline=pipeline) as site:
        files = [("more", ("a", b"first")), ("more", ("b", b"second")), ("media", ("c", b"third"))]
        response = await post_form(site.client, FIELDS, files)
    assert response.status_code == 200, response.text
    data = pipeline.requests[0].data
    assert [media.content for media in data["more"]] == [b"first", b"second"]
    assert data["media"].content == b"third"


@pytest.mark.parametrize(
    ("fields", "files", "code", "says"),
    [
        (FIELDS, {"text": ("a", b"x")}, "INVALID_INPUT", "takes media in: media, more"),
        (FIELDS | {"data": '{"media": "s3://b/k"}'}, {"media": ("a", b"x")}, "INVALID_INPUT", "both"),
        (FIELDS | {"data": "{"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "data is no JSON"),
        (FIELDS | {"data": DEEP}, {"media": ("a", b"x")}, "INVALID_REQUEST", "data is no JSON"),
        ({"request": DEEP}, {"media": ("a", b"x")}, "UNDECODABLE", "nested too deeply"),
        (FIELDS | {"request": "{}"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "put them into"),
        (FIELDS | {"colour": "red"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "colour"),
        ({"request": "no json"}, {"media": ("a", b"x")}, "UNDECODABLE", "no JSON"),
        ({"request": "[1]"}, {"media": ("a", b"x")}, "UNDECODABLE", "no JSON object"),
        ({"task": "shout"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "engine"),
        (FIELDS | {"task": "sing"}, {"media": ("a", b"x")}, "UNKNOWN_TASK", "sing"),
        (FIELDS | {"deadline": "tomorrow"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "RFC 3339"),
    ],
)
async def test_a_wrong_form_says_what_is_wrong(
    tmp_path: Path, fields: dict[str, str], files: Any, code: str, says: str
) -> None:
    async with http_site(tmp_path) as site:
        error = assert_failure(await post_form(site.client, fields, files), 400, code)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nopen"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken header\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n"),
        ("multipart/form-data", b"--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=task\r\n\r\na\r\n" * 2 + b"--x--\r\n",
        ),
        (
            "multipart/mixed; boundary=x",
            b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\nz\r\n--y--\r\n--x--\r\n",
        ),
    ],
)
async def test_a_form_that_cannot_be_read_is_an_invalid_request(
    tmp_path: Path, kind: str, body: bytes
) -> None:
    async with http_site(tmp_path) as site:
        response = await site.client.post("/inference/infer", content=body, headers={"Content-Type": kind})
        assert_failure(response, 400, "INVALID_REQUEST")


async def test_uploaded_media_are_bounded_together_as_fetched_ones_are(tmp_path: Path) -> None:
    settings = settings_with()
    media = settings.media.model_copy(update={"max_bytes": 100})
    async with http_site(tmp_path, settings.model_copy(update={"media": media})) as site:
        files = [("more", ("a", b"x" * 60)), ("more", ("b", b"x" * 60))]
        error = assert_failure(await post_form(site.client, FIELDS, files), 413, "MEDIA_TOO_LARGE")
    assert "media.max_bytes allows 100" in error["message"]


async def test_a_form_above_the_body_limit_is_refused(tmp_path: Path) -> None:
    async with http_site(tmp_path, settings_with(max_body_bytes=1000)) as site:

        async def parts() -> AsyncIterator[bytes]:
            yield b"--x\r\nContent-Disposition: form-data; name=media; filename=a\r\n\r\n"
            for _ in range(20):
                yield b"x" * 100

        response = await site.client.post(
            "/inference/infer",
            content=parts(),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        assert_failure(response, 413, "INVALID_REQUEST")
