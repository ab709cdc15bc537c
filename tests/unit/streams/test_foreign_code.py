"""Whatever an engine or a handler raises is the failure of one request, by whichever door it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from handlers.errors import InternalError
from streams.faults import contained, report_fault, supervised, tell_of_faults
from tests.plugins.unruly import KINDS
from tests.unit.streams.unruly_site import UnrulySite, unruly_site

PLACES = {
    "quick": ("preprocess", "infer", "postprocess"),
    "media": ("preprocess", "infer", "postprocess"),
    "http": ("preprocess", "infer", "postprocess"),
    "texts": ("preprocess", "submit", "future", "postprocess"),
    "events": ("preprocess", "submit", "future", "postprocess"),
    "python": ("preprocess", "infer", "postprocess"),
}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[UnrulySite]:
    async with unruly_site(tmp_path) as made:
        yield made
        assert made.faults == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", PLACES)
@pytest.mark.logs_errors("execute_failed", "stage_failed")
async def test_what_is_raised_is_one_failed_result_and_the_next_request_is_answered(
    site: UnrulySite, door: str, kind: str
) -> None:
    for place in PLACES[door]:
        failed = await site.ask(door, {"value": 1, "raises": {place: kind}})
        assert not failed["success"]
        assert failed["error"]["code"] in ("INTERNAL_ERROR", "INFERENCE_FAILED"), (place, failed["error"])
        following = await site.ask(door, {"value": 2})
        assert following["success"], following
        assert following["result"]["value"] == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", PLACES)
@pytest.mark.logs_errors("load_failed")
async def test_a_load_that_raises_anything_is_a_failed_load(site: UnrulySite, door: str, kind: str) -> None:
    failed = await site.ask(door, {"value": 1}, model=f"load-{kind}")
    assert failed["error"]["code"] == "MODEL_LOAD_FAILED"
    assert (await site.ask(door, {"value": 2}))["success"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.logs_errors("unload_failed")
async def test_an_unload_that_raises_anything_lets_the_model_go(site: UnrulySite, kind: str) -> None:
    assert (await site.ask("quick", {"value": 1}, model=f"unload-{kind}"))["success"]
    assert (await site.client.delete("/inference/cache")).json()["cleared"] == 1
    assert (await site.ask("quick", {"value": 2}, model=f"unload-{kind}"))["success"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.logs_errors("execute_failed")
async def test_neighbours_in_the_same_batch_are_answered(site: UnrulySite, kind: str) -> None:
    requests = [{"value": n, "raises": {"infer": kind} if n == 3 else {}} for n in range(8)]
    answers = await asyncio.gather(*(site.ask("quick", one) for one in requests))
    assert any(len(batch) > 1 for batch in site.engine.batches)
    assert [answer["success"] for answer in answers] == [n != 3 for n in range(8)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.logs_errors("load_failed", "model_not_warmed")
async def test_warming_goes_on_after_a_model_that_raises_anything(site: UnrulySite, kind: str) -> None:
    await site.runtime.warm([f"load-{kind}", "m"])
    assert {row["model_name"] for row in site.runtime.manager.get_cached_models()} == {"m"}


async def test_a_request_that_is_really_cancelled_is_cancelled(site: UnrulySite) -> None:
    asking = asyncio.create_task(site.ask("texts", {"value": 1, "hangs": ["future"]}))
    while not site.runtime.manager.get_cached_models():
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, asyncio.CancelledError])
@pytest.mark.logs_errors("call_failed")
async def test_what_a_coroutine_cannot_be_told_from_a_thread_is_an_error_there(
    kind: type[BaseException],
) -> None:
    def fail() -> None:
        raise kind

    async with asyncio.timeout(5):
        with pytest.raises(InternalError):
            await asyncio.to_thread(contained, fail)


@pytest.mark.logs_errors("process_fault")
async def test_a_fault_that_is_reported_is_told() -> None:
    faults: list[BaseException] = []
    tell_of_faults(faults.append)
    error = ValueError("not taken")
    report_fault(error, "somewhere")
    assert faults == [error]


@pytest.mark.parametrize(("kind", "is_fault"), [("error", True), ("cancelled", True), (None, False)])
@pytest.mark.logs_errors("process_fault")
async def test_a_task_that_ends_by_itself_is_a_fault_and_one_that_is_cancelled_is_not(
    kind: str | None, is_fault: bool
) -> None:
    async def work() -> None:
        if kind is None:
            await asyncio.Event().wait()
        raise KINDS[str(kind)]("by itself")

    faults: list[BaseException] = []
    tell_of_faults(faults.append)
    task = supervised(asyncio.create_task(work()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert bool(faults) is is_fault
