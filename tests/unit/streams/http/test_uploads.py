"""Forms: their files become the media of the request, and what is wrong with one is said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers.media import Media
from tests.unit.streams.http.site import (
    DEEP,
    SHOUT,
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
)

FIELDS = {name: SHOUT[name] for name in ("task", "engine", "model_name")}


async def post_form(
    client: httpx.AsyncClient, fields: dict[str, str] | None = None, files: Any = None
) -> httpx.Response:
    return await client.post("/inference/infer", data=fields, files=files)


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
        response = await post_form(site.client, {"request": json.dumps(request)}, {"media": ("a.txt", b"hello")})
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
        (FIELDS, {"text": ("a", b"x")}, "INVALID_INPUT", "send it as media or more"),
        (FIELDS | {"data": '{"media": "s3://b/k"}'}, {"media": ("a", b"x")}, "INVALID_INPUT", "both"),
        (FIELDS | {"data": "{"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "data is not JSON"),
        (FIELDS | {"data": DEEP}, {"media": ("a", b"x")}, "INVALID_REQUEST", "data is not JSON"),
        ({"request": DEEP}, {"media": ("a", b"x")}, "UNDECODABLE", "nested too deeply"),
        (FIELDS | {"request": "{}"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "put them into"),
        (FIELDS | {"colour": "red"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "colour"),
        ({"request": "no json"}, {"media": ("a", b"x")}, "UNDECODABLE", "not a JSON object"),
        ({"request": "[1]"}, {"media": ("a", b"x")}, "UNDECODABLE", "not a JSON object"),
        ({"task": "shout"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "engine"),
        (FIELDS | {"task": "sing"}, {"media": ("a", b"x")}, "UNKNOWN_TASK", "sing"),
        (FIELDS | {"deadline": "tomorrow"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "RFC 3339"),
        (FIELDS | {"deadline": "nan"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "RFC 3339"),
        (FIELDS | {"deadline": "1e400"}, {"media": ("a", b"x")}, "INVALID_REQUEST", "RFC 3339"),
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
async def test_a_form_that_cannot_be_read_is_an_invalid_request(tmp_path: Path, kind: str, body: bytes) -> None:
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
