"""A call of an engine or a handler that never comes back fails its requests, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import unruly
from tests.unit.streams.unruly_site import PATIENCE_S, UnrulySite, unruly_site

pytestmark = pytest.mark.waits

BRIEF: dict[str, Any] = {"infer_timeout_s": 0.4, "max_stuck_calls": 100}
"""So little that on a busy machine an innocent call may be given up as well: what must succeed is asked again."""

PLACES = {
    "quick": ("preprocess", "infer", "postprocess"),
    "media": ("preprocess", "infer", "postprocess"),
    "http": ("preprocess", "infer", "postprocess"),
    "texts": ("preprocess", "submit", "future", "postprocess"),
    "events": ("preprocess", "submit", "future", "postprocess"),
    "python": ("preprocess", "infer", "postprocess"),
}


async def answered(site: UnrulySite, door: str, data: dict[str, Any], **how: Any) -> dict[str, Any]:
    """Return the answer to a request that hangs nowhere, sent again where the machine was too busy for it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await site.ask(door, data, **how)
            if answer["success"] or answer["error"]["code"] != "INFERENCE_TIMEOUT":
                return answer


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("door", "place"),
    [(door, place) for door, places in PLACES.items() for place in places],
)
@pytest.mark.logs_errors("call_stuck")
async def test_a_call_that_hangs_is_a_retryable_failure_and_the_next_request_is_answered(
    tmp_path: Path, door: str, place: str
) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        for _ in range(2):
            failed = await site.ask(door, {"value": 1, "hangs": [place]})
            assert failed["error"]["code"] == "INFERENCE_TIMEOUT", failed
            assert failed["error"]["retryable"]
            assert "worker.infer_timeout_s" in failed["error"]["message"]
            assert (await answered(site, door, {"value": 2}))["result"]["value"] == 2
        assert site.faults == []


@pytest.mark.parametrize("door", PLACES)
@pytest.mark.logs_errors("call_stuck")
async def test_a_load_that_hangs_fails_all_who_wait_for_it_and_other_models_go_on(tmp_path: Path, door: str) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        waiting = [asyncio.create_task(site.ask(door, {"value": n}, model="load-hangs")) for n in range(3)]
        assert (await answered(site, door, {"value": 7}))["success"]
        for failed in await asyncio.gather(*waiting):
            assert failed["error"]["code"] == "INFERENCE_TIMEOUT"
        assert site.engine.loads.count("load-hangs") <= 3


@pytest.mark.logs_errors("call_stuck")
async def test_http_answers_503_and_when_to_try_again(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        fields = {"task": "unruly", "engine": "unruly", "model_name": "m"}
        response = await site.client.post("/inference/infer", json={**fields, "data": {"value": 1, "hangs": ["infer"]}})
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0


@pytest.mark.logs_errors("call_stuck")
async def test_what_hangs_is_told_by_health_and_metrics_until_it_comes_back(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        await site.ask("quick", {"value": 1, "hangs": ["infer"]})
        await site.ask("media", {"value": 1, "hangs": ["preprocess"]}, model="other")
        ready = await site.client.get("/readyz")
        calls = ready.json()["components"]["calls"]
        assert calls["status"] == "error"
        assert {"preprocess of task unruly-media", "unruly/unruly/m/1"} <= set(calls["stuck"])
        assert f"inferstream_stuck_calls {len(calls['stuck'])}" in (await site.client.get("/metrics")).text
        unruly.FOREVER.set()
        await until(lambda: site.runtime.manager.guard.stuck == [])
        assert (await site.client.get("/readyz")).json()["components"]["calls"]["status"] == "ok"
        assert site.runtime.manager.get_stats()["given_up_calls"] >= 2


@pytest.mark.logs_errors("call_stuck")
async def test_a_model_that_was_replaced_is_unloaded_when_its_call_comes_back(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        await site.ask("quick", {"value": 1, "hangs": ["infer"]})
        await answered(site, "quick", {"value": 2})
        assert len(site.engine.loads) >= 2
        unruly.FOREVER.set()
        await until(lambda: len(site.engine.unloads) == len(site.engine.loads) - 1)
        await until(lambda: [row["leases"] for row in site.runtime.manager.get_cached_models()] == [0])


@pytest.mark.parametrize("place", ["submit", "future"])
@pytest.mark.logs_errors("call_stuck")
async def test_so_is_one_whose_requests_come_one_by_one(tmp_path: Path, place: str) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        await site.ask("texts", {"value": 1, "hangs": [place]})
        await answered(site, "texts", {"value": 2})
        unruly.FOREVER.set()
        await until(lambda: len(site.engine.unloads) == len(site.engine.loads) - 1)
        await until(lambda: site.runtime.manager.guard.stuck == [])


@pytest.mark.logs_errors("call_stuck")
async def test_a_load_that_comes_too_late_is_unloaded_again(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        failed = await site.ask("quick", {"value": 1}, model="load-hangs-once")
        assert failed["error"]["code"] == "INFERENCE_TIMEOUT"
        assert (await answered(site, "quick", {"value": 2}, model="load-hangs-once"))["success"]
        unruly.FOREVER.set()
        await until(lambda: len(site.engine.unloads) == len(site.engine.loads) - 1)


@pytest.mark.logs_errors("call_stuck", "unload_failed")
async def test_an_unload_that_hangs_does_not_hold_up_the_next_load(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        assert (await answered(site, "quick", {"value": 1}, model="unload-hangs"))["success"]
        await site.client.delete("/inference/cache")
        assert (await answered(site, "quick", {"value": 1}, model="unload-hangs"))["success"]


@pytest.mark.logs_errors("call_stuck")
async def test_requests_that_wait_behind_one_that_hangs_get_the_next_load(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, **BRIEF) as site:
        hanging = asyncio.create_task(site.ask("quick", {"value": 0, "hangs": ["infer"]}))
        await until(lambda: site.engine.batches)
        behind = [
            asyncio.create_task(answered(site, door, {"value": n}))
            for n, door in enumerate(["quick", "python", "http", "python"])
        ]
        assert [answer["success"] for answer in await asyncio.gather(hanging, *behind)] == [
            False,
            *[True] * 4,
        ]


@pytest.mark.logs_errors("call_stuck")
async def test_neighbours_in_a_batch_that_was_cut_keep_their_answers(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, infer_timeout_s=2.0) as site:
        data: list[dict[str, Any]] = [{"value": n} for n in range(4)]
        data[3] = {"value": 3, "raises": {"infer": "panic"}, "hangs_alone": ["infer"]}
        answers = await asyncio.gather(*(site.ask("quick", one) for one in data))
        assert any(len(batch) > 1 for batch in site.engine.batches)
        assert [answer["success"] for answer in answers] == [True, True, True, False]
        assert answers[3]["error"]["code"] == "INFERENCE_TIMEOUT"


async def test_a_text_that_grows_is_not_given_up_however_long_it_takes(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, infer_timeout_s=3.0) as site:
        answer = await site.ask("texts", {"value": 1, "pieces": 40, "pause_s": 0.1})
        assert answer["success"]


@pytest.mark.logs_errors("call_stuck")
async def test_a_model_or_task_has_a_time_of_its_own(tmp_path: Path) -> None:
    own = ("unruly=0.4", "patient=3600")
    async with unruly_site(tmp_path, infer_timeout_s=3600.0, infer_timeouts=own) as site:
        patient = asyncio.create_task(site.ask("quick", {"value": 1, "hangs": ["infer"]}, model="patient"))
        failed = await site.ask("quick", {"value": 1, "hangs": ["infer"]})
        assert failed["error"]["code"] == "INFERENCE_TIMEOUT"
        assert not patient.done()
        unruly.FOREVER.set()
        assert (await patient)["success"]


@pytest.mark.logs_errors("call_stuck")
async def test_too_many_calls_that_hang_end_the_process_and_load_nothing_more(tmp_path: Path) -> None:
    async with unruly_site(tmp_path, infer_timeout_s=0.4, max_stuck_calls=1) as site:
        for number in range(2):
            await site.ask("quick", {"value": 1, "hangs": ["infer"]}, model=f"m{number}")
        await until(lambda: site.ended)
        refused = await site.ask("quick", {"value": 1}, model="m3")
        assert refused["error"]["code"] == "ENGINE_UNAVAILABLE"
        assert "start it again" in refused["error"]["message"]
