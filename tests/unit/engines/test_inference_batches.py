"""Requests that run together: which may, and what each of them gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.errors import InferenceError, InternalError, ModelLoadFailed
from tests.unit.engines.parts import Bench, prepare


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_bad_item_of_a_batch_does_not_cost_its_neighbours_their_answers(bench: Bench) -> None:
    batch = [prepare(bench, text) for text in ("one", "engine-bug", "three")]
    first, second, third = bench.manager.execute(batch)
    assert (first, third) == ({"shouted": "ONE"}, {"shouted": "THREE"})
    assert isinstance(second, InferenceError)
    assert second.code == "INFERENCE_FAILED"
    assert all({"fetch", "preprocess", "wait", "infer"} <= set(one.timings) for one in batch)


def test_a_batch_whose_model_does_not_load_fails_item_by_item(bench: Bench) -> None:
    bench.engine.broken = True
    outcomes = bench.manager.execute([prepare(bench, "one"), prepare(bench, "two")])
    assert [type(outcome) for outcome in outcomes] == [ModelLoadFailed] * 2


def test_an_engine_that_loses_items_is_told_so_for_each_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.engine, "infer_batch", lambda model, inputs, options: [{"shouted": "ONE"}])
    outcomes = bench.manager.execute([prepare(bench, "one"), prepare(bench, "two")])
    assert [type(outcome) for outcome in outcomes] == [InternalError] * 2


def test_an_engine_that_returns_no_dict_fails_that_item_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        bench.engine, "infer_batch", lambda model, inputs, options: [{"shouted": "ONE"}, "TWO"]
    )
    first, second = bench.manager.execute([prepare(bench, "one"), prepare(bench, "two")])
    assert first == {"shouted": "ONE"}
    assert isinstance(second, InternalError)


def test_an_empty_batch_has_no_outcomes(bench: Bench) -> None:
    assert bench.manager.execute([]) == []
    assert bench.engine.loaded == []


def test_requests_share_a_batch_when_engine_model_task_and_the_engines_own_key_agree(bench: Bench) -> None:
    keys = [
        prepare(bench, "a").batch_key,
        prepare(bench, "b").batch_key,
        prepare(bench, "a", options={"top_k": 5}).batch_key,
        prepare(bench, "a", model_name="plain").batch_key,
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
