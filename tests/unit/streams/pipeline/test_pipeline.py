"""The pipeline: what a request leaves behind when it is over, whatever its engine still does."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import InvalidInput
from handlers.media import Media
from tests.unit.engines.parts import ShoutHandler
from tests.unit.streams.pipeline.test_fast_lane import PlainHandler, shout, site_with


class ChildrenHandler(ShoutHandler):
    """Tells the thread that it runs in, and takes its time there."""

    waits_for_children = True

    def preprocess(self, data: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(data["media"], Media)
        time.sleep(0.05)
        return {"text": threading.current_thread().name}


@pytest.mark.waits
async def test_the_timings_of_a_request_that_ran_out_of_time_stay_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def infer(*_: Any) -> dict[str, Any]:
        assert gate.wait(30)
        return {"shouted": "LATE"}

    async with site_with(tmp_path, PlainHandler) as site:
        monkeypatch.setattr(site.bench.engine, "infer", infer)
        result = await site.answer(shout("hello", deadline=time.time() + 2))
        published = dict(result["timings"])
        gate.set()
        await site.answer(shout("next"))  # by now the engine has ended with the one before
    assert result["error"]["code"] == "DEADLINE_EXCEEDED"
    assert result["timings"] == published
    assert result["timings"]["infer"] > 0
    assert sum(result["timings"].values()) >= result["processing_time"]


async def test_a_request_for_a_model_that_is_not_there_says_how_long_that_took(tmp_path: Path) -> None:
    async with site_with(tmp_path, PlainHandler) as site:
        result = await site.answer(shout("hello", model_name="nobody"))
    assert result["error"]["code"] == "UNKNOWN_MODEL"
    assert result["timings"]["resolve"] == pytest.approx(result["processing_time"], abs=1e-6)


async def test_what_the_engine_says_of_one_request_holds_on_to_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = InvalidInput("this one not")
    async with site_with(tmp_path, PlainHandler) as site:
        monkeypatch.setattr(site.bench.engine, "infer_batch", lambda *_: [error])
        result = await site.answer(shout("hello"))
    assert result["error"]["message"] == "this one not"
    assert error.__traceback__ is None


@pytest.mark.logs_errors("stage_failed")
async def test_a_handler_that_waits_for_children_has_threads_of_its_own_and_the_wait_for_one_is_told(
    tmp_path: Path,
) -> None:
    async with site_with(tmp_path, ChildrenHandler) as site:
        asked = [shout("", id=str(number), data={"media": "data:,x"}) for number in range(3)]
        results = await asyncio.gather(*map(site.answer, asked))
    assert {result["result"]["text"] for result in results} == {"CHILDREN_0"}
    waits = sorted(result["timings"]["wait"] for result in results)
    assert waits[1] >= 0.04
    assert waits[2] >= 0.09
