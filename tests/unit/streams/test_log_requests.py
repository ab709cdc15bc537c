"""A log line names the request it is about, in whichever thread and batch that request is worked on."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from streams.logs import configure_logging
from streams.messages import Request
from streams.settings import LoggingSettings
from tests.unit.engines.parts import ShoutHandler
from tests.unit.streams.pipeline.test_fast_lane import PlainHandler, Site, site_with

log = structlog.get_logger("test")


def shout(identity: str, text: str) -> Request:
    return Request(id=identity, task="shout", engine="shouter", model_name="tagged", data={"text": text})


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    configure_logging(LoggingSettings(format="json"), stream)
    return stream


def lines(stream: io.StringIO, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if line["message"] == event]


@asynccontextmanager
async def telling_site(directory: Path, handler: type[ShoutHandler]) -> AsyncIterator[Site]:
    """A site whose engine writes a line for each input, and holds the first one until `site.gate` is set."""
    async with site_with(directory, handler) as site:
        gate = threading.Event()
        infer = site.bench.engine.infer

        def tell(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
            if inputs["text"] == "first":
                assert gate.wait(30)
            log.info("running", text=inputs["text"])
            return infer(model, inputs, options)

        site.bench.engine.infer = tell  # type: ignore[method-assign]
        site.gate = gate  # type: ignore[attr-defined]
        yield site


@pytest.mark.parametrize("door", ["pipeline", "quick path"])
async def test_lines_of_an_engine_thread_name_the_request_they_are_about(
    tmp_path: Path, stream: io.StringIO, door: str
) -> None:
    async with telling_site(tmp_path, PlainHandler) as site:
        texts = ["first", "second", "engine-bug", "fourth"]
        site.bench.manager.warm("tagged")

        async def ask(text: str) -> None:
            if door == "pipeline":
                await site.pipeline.answer(shout(f"id of {text}", text))
            else:
                await site.quickly(shout(f"id of {text}", text))

        asking = [asyncio.create_task(ask(text)) for text in texts]
        for _ in range(20):
            await asyncio.sleep(0)
        site.gate.set()  # type: ignore[attr-defined]
        await asyncio.gather(*asking)
    assert {line["text"]: line.get("request_id") for line in lines(stream, "running")} == {
        text: f"id of {text}" for text in texts
    }
    [failed] = lines(stream, "inference_failed")
    assert (failed["request_id"], failed["model"], failed["task"]) == ("id of engine-bug", "tagged", "shout")
    [told] = lines(stream, "request_failed")
    assert (told["request_id"], told["code"]) == ("id of engine-bug", "INFERENCE_FAILED")


async def test_a_line_about_a_whole_batch_names_all_of_its_requests_and_not_the_first_of_its_lane(
    tmp_path: Path, stream: io.StringIO
) -> None:
    async with telling_site(tmp_path, PlainHandler) as site:

        def broken(model: Any, inputs: Any, options: Any) -> Any:
            log.info("together", count=len(inputs))
            return [{"shouted": one["text"]} for one in inputs]

        asking = [asyncio.create_task(site.pipeline.answer(shout("a", "first")))]
        for _ in range(20):
            await asyncio.sleep(0)
        site.bench.engine.infer_batch = broken  # type: ignore[method-assign]
        asking += [asyncio.create_task(site.pipeline.answer(shout(name, name))) for name in ("b", "c")]
        for _ in range(20):
            await asyncio.sleep(0)
        site.gate.set()  # type: ignore[attr-defined]
        await asyncio.gather(*asking)
    named = [line.get("request_ids", [line.get("request_id")]) for line in lines(stream, "together")]
    assert sorted(name for names in named for name in names) in (["a", "b", "c"], ["b", "c"])
