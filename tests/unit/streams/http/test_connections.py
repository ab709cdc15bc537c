"""However many connections are open, whoever is being answered stays and the next plain request is answered."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from streams.http.limits import connections_allowed
from tests.unit.streams.http.site import HttpSite, ScriptedPipeline, http_site, settings_with, until

MOST = 20
FIRST_BYTES = [
    b"",
    b"GET /healthz HT",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /inference/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{",
    b"POST /inference/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
]


@asynccontextmanager
async def connections(site: HttpSite, first: bytes, count: int) -> AsyncIterator[None]:
    """Open connections that send `first` and then nothing more."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            _, writer = await asyncio.open_connection(*site.address)
            stack.callback(writer.close)
            writer.write(first)
        yield


@pytest.mark.parametrize("first", FIRST_BYTES, ids=["silent", "half a head", "kept alive", "slow", "chunked"])
async def test_idle_and_slow_callers_keep_nobody_out(tmp_path: Path, first: bytes) -> None:
    pipeline = ScriptedPipeline()
    async with http_site(tmp_path, settings_with(max_connections=MOST), pipeline=pipeline) as site:
        served = asyncio.create_task(site.infer(id="served"))
        await until(lambda: pipeline.requests)
        async with connections(site, first, 10 * MOST):
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*site.address)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 200 OK")
                writer.close()
            pipeline.gate.set()
            answer = await served
    assert (answer.status_code, answer.json()["id"]) == (200, "served")


async def test_bytes_that_are_not_http_are_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_site(tmp_path) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        writer.write(b"GET /healthz HTTP/1.1\r\nA B: c\r\n\r\n")
        assert b"400 Bad Request" in await asyncio.wait_for(reader.read(), 60)
        writer.close()
        assert (await site.client.get("/healthz")).status_code == 200
    [record] = [one for one in caplog.records if one.name == "aiohttp.server"]
    assert (record.getMessage(), record.levelno, record.exc_info) == (
        "http_request_not_readable",
        logging.INFO,
        None,
    )


@pytest.mark.parametrize(
    ("soft", "hard", "most", "allowed"),
    [(1024, 1024, 4096, 512), (1024, 20_000, 4096, 4096), (1024, 20_000, 100_000, 10_000), (1, 1, 5, 1)],
)
def test_half_of_the_files_that_may_be_opened_are_for_connections(
    soft: int, hard: int, most: int, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert connections_allowed(most) == allowed
    assert raised == ([(hard, hard)] if soft < hard else [])
