"""Bodies are bounded in bytes, each and together, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from tests.unit.streams.http.site import (
    ScriptedPipeline,
    assert_failure,
    http_site,
    settings_with,
    until,
)


async def test_a_body_that_is_not_compressed_as_it_says_is_refused(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        response = await site.client.post(
            "/inference/infer", content=b"no gzip at all", headers={"Content-Encoding": "gzip"}
        )
        assert_failure(response, 400, "INVALID_REQUEST")


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
        response = await site.client.post("/inference/infer", content=bomb, headers={"Content-Encoding": "gzip"})
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
