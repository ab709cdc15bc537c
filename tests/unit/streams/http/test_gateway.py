"""The routes beside the inference, and callers of all sorts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.unit.streams.http.site import (
    PATIENCE_S,
    SHOUT,
    assert_failure,
    http_site,
    settings_with,
)


async def test_an_unknown_path_is_an_ordinary_failure(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        error = assert_failure(await site.client.get("/inference/nothing"), 404, "INVALID_REQUEST")
    assert "/inference/nothing" in error["message"]


async def test_a_wrong_method_says_which_are_right(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await site.client.get("/inference/infer")
        assert_failure(response, 405, "INVALID_REQUEST")
        assert response.headers["Allow"] == "POST"
        response = await site.client.put("/inference/stats")
        assert response.headers["Allow"] == "GET, HEAD"


async def test_over_http_tasks_are_served_that_the_worker_does_not_consume(tmp_path: Path) -> None:
    settings = settings_with()
    worker = settings.worker.model_copy(update={"tasks": ("asr",)})
    async with http_site(tmp_path, settings.model_copy(update={"worker": worker})) as site:
        assert (await site.infer()).json()["result"]["text"] == "HELLO"


async def test_statistics_and_the_cache_are_those_of_the_manager(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        await site.infer()
        await site.infer(data={"text": "refuse"})
        stats = (await site.client.get("/inference/stats")).json()
        assert stats == site.bench.manager.get_stats()
        assert (stats["total_inferences"], stats["success_rate"], stats["cached_models"]) == (2, 0.5, 1)
        site.bench.manager.warm("tagged")
        refused = await site.client.delete("/inference/cache", params={"include_warm": "perhaps"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INVALID_REQUEST")
        unknown = await site.client.delete("/inference/cache", params={"model": "tagged"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "INVALID_REQUEST")
        cleared = await site.client.delete("/inference/cache")
        assert cleared.json() == {
            "cleared": 0,
            "in_use": [],
            "kept": ["tagged/3"],
        }
        all_of_them = await site.client.delete("/inference/cache", params={"include_warm": "true"})
        assert all_of_them.json() == {"cleared": 1, "in_use": [], "kept": []}
        assert (await site.client.get("/inference/stats")).json()["cached_models"] == 0
        assert site.bench.engine.unloaded == ["tagged"]


async def test_many_callers_at_once_are_all_answered(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        responses = await asyncio.gather(*(site.infer(id=f"x-{n}", data={"text": f"t{n}"}) for n in range(100)))
    assert [response.json()["result"]["text"] for response in responses] == [f"T{n}" for n in range(100)]
    assert [response.json()["id"] for response in responses] == [f"x-{n}" for n in range(100)]


async def test_a_request_that_is_no_http_harms_nobody(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        writer.write(b"\x16\x03\x01 no http\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        assert b"400" in answer.splitlines()[0]
        assert b"Traceback" not in answer
        assert (await site.infer(**SHOUT)).status_code == 200
