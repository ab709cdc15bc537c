"""Requests that run together: which may, and what each of them gets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.base import Early, stop_if_unwanted
from handlers.errors import Busy, Cancelled, EngineUnavailable, InferenceError, InternalError, ModelLoadFailed
from tests.unit.engines.parts import Bench, prepare


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.logs_errors("inference_failed")
def test_a_bad_item_of_a_batch_does_not_cost_its_neighbours_their_answers(bench: Bench) -> None:
    batch = [prepare(bench, text) for text in ("one", "engine-bug", "three")]
    first, second, third = bench.manager.execution.run(batch)
    assert (first, third) == ({"shouted": "ONE"}, {"shouted": "THREE"})
    assert isinstance(second, InferenceError)
    assert second.code == "INFERENCE_FAILED"
    assert all({"fetch", "preprocess", "wait", "infer"} <= set(one.timings) for one in batch)


@pytest.mark.logs_errors("load_failed")
def test_a_batch_whose_model_does_not_load_fails_item_by_item(bench: Bench) -> None:
    bench.engine.broken = True
    outcomes = bench.manager.execution.run([prepare(bench, "one"), prepare(bench, "two")])
    assert [type(outcome) for outcome in outcomes] == [ModelLoadFailed] * 2


def test_an_engine_that_loses_items_is_told_so_for_each_of_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.engine, "infer_batch", lambda model, inputs, options: [])
    outcomes = bench.manager.execution.run([prepare(bench, "one"), prepare(bench, "two")])
    assert [type(outcome) for outcome in outcomes] == [InternalError] * 2


def test_an_engine_that_returns_no_dict_fails_that_item_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.engine, "infer_batch", lambda model, inputs, options: [{"shouted": "ONE"}, "TWO"])
    first, second = bench.manager.execution.run([prepare(bench, "one"), prepare(bench, "two")])
    assert first == {"shouted": "ONE"}
    assert isinstance(second, InternalError)


def test_an_empty_batch_has_no_outcomes(bench: Bench) -> None:
    assert bench.manager.execution.run([]) == []
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


class Whole:
    """Runs batches as a whole: raises where a text of them is bad. Notes what it ran."""

    def __init__(self, bad: set[str], error: Exception | None = None) -> None:
        self.bad = bad
        self.error = error or RuntimeError("shapes do not match")
        self.ran: list[list[str]] = []

    def __call__(self, model: Any, inputs: Sequence[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        self.ran.append([one["text"] for one in inputs])
        if self.bad & set(self.ran[-1]):
            raise self.error
        return [{"shouted": one["text"].upper()} for one in inputs]


def run_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch, whole: Whole, count: int) -> list[Any]:
    monkeypatch.setattr(bench.engine, "infer_batch", whole)
    return bench.manager.execution.run([prepare(bench, f"t{number}") for number in range(count)])


@pytest.mark.logs_errors("execute_failed")
def test_a_batch_that_raises_is_halved_until_the_bad_one_is_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Whole({"t5"})
    outcomes = run_whole(bench, monkeypatch, whole, 8)
    assert [number for number, one in enumerate(outcomes) if isinstance(one, InternalError)] == [5]
    assert [one for one in outcomes if isinstance(one, dict)] == [
        {"shouted": f"T{number}"} for number in range(8) if number != 5
    ]
    assert len(whole.ran) == 7  # 8, 4, 4, 2, 1, 1, 2


@pytest.mark.logs_errors("execute_failed")
def test_every_bad_one_of_a_batch_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = run_whole(bench, monkeypatch, Whole({"t0", "t3", "t4"}), 5)
    assert [isinstance(one, InferenceError) for one in outcomes] == [True, False, False, True, True]


class Speechless(Exception):
    """An error of somebody's engine that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.logs_errors("execute_failed")
def test_an_error_without_words_costs_its_neighbours_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = run_whole(bench, monkeypatch, Whole({"t1"}, Speechless()), 4)
    assert [isinstance(one, InternalError) for one in outcomes] == [False, True, False, False]


def test_a_bad_item_that_ends_the_batch_early_costs_its_neighbours_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_the_bad_one(model: Any, inputs: Sequence[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        texts = itertools.takewhile(lambda text: text != "t2", (one["text"] for one in inputs))
        return [{"shouted": text.upper()} for text in texts]

    monkeypatch.setattr(bench.engine, "infer_batch", until_the_bad_one)
    outcomes = bench.manager.execution.run([prepare(bench, f"t{number}") for number in range(5)])
    assert [isinstance(one, InternalError) for one in outcomes] == [False, False, True, False, False]
    assert outcomes[4] == {"shouted": "T4"}


@pytest.mark.parametrize("error", [EngineUnavailable("away"), Busy("later")])
def test_an_engine_that_is_away_is_not_asked_again_for_every_half(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: InferenceError
) -> None:
    whole = Whole({"t0"}, error)
    assert run_whole(bench, monkeypatch, whole, 4) == [error] * 4
    assert len(whole.ran) == 1


@pytest.mark.logs_errors("execute_failed")
def test_the_time_of_all_halves_counts_for_each_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.engine, "infer_batch", Whole({"t0"}))
    batch = [prepare(bench, f"t{number}") for number in range(2)]
    bench.manager.execution.run(batch)
    assert batch[0].timings["infer"] == batch[1].timings["infer"] > 0


class OneByOne:
    """Answers the requests of a batch early, in order, up to one that breaks it off."""

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.ran: list[list[str]] = []

    def __call__(self, model: Any, inputs: Any, options: Any, early: Early) -> list[dict[str, Any]]:
        texts = [one["text"] for one in inputs]
        self.ran.append(texts)
        for number, text in enumerate(texts):
            if text == self.bad:
                raise ValueError("this one")
            early(number, {"shouted": text.upper()})
        return [{"shouted": "late"} for _ in texts]


@pytest.mark.logs_errors("execute_failed")
def test_what_was_answered_early_stands_and_is_not_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OneByOne(bad="t1")
    monkeypatch.setattr(bench.engine, "infer_each", engine)
    batch, told = [prepare(bench, f"t{number}") for number in range(4)], list[tuple[Any, Any]]()
    outcomes = bench.manager.execution.run(batch, lambda job, outcome: told.append((job, outcome)))
    assert [one if isinstance(one, dict) else type(one) for one in outcomes] == [
        {"shouted": "T0"},
        InternalError,
        {"shouted": "T2"},
        {"shouted": "T3"},
    ]
    assert told == [(batch[number], outcomes[number]) for number in (0, 2, 3)]
    assert engine.ran == [["t0", "t1", "t2", "t3"], ["t1"], ["t1"], ["t2", "t3"]]
    assert 0 < batch[0].timings["infer"] <= batch[1].timings["infer"]


def test_inputs_that_run_one_by_one_stop_when_nobody_waits_for_any_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [prepare(bench, f"t{number}") for number in range(3)]
    ran: list[str] = []

    def infer(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        ran.append(inputs["text"])
        batch[len(ran) - 1].is_given_up = True
        batch[2].is_given_up = len(ran) == 2
        return {"shouted": inputs["text"]}

    monkeypatch.setattr(bench.engine, "infer", infer)
    outcomes = bench.manager.execution.run(batch)
    assert ran == ["t0", "t1"]
    assert isinstance(outcomes[2], Cancelled)


def test_a_batch_of_which_the_rest_is_given_up_leaves_the_engine_to_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [prepare(bench, f"t{number}") for number in range(3)]
    passes: list[int] = []

    def answers_the_first_only(
        model: Any, inputs: Any, options: Any, early: Early
    ) -> list[dict[str, Any] | InferenceError]:
        early(0, {"shouted": "T0"})
        for number in range(1000):
            stop_if_unwanted()
            passes.append(number)
            if number == 1:
                batch[1].is_given_up = batch[2].is_given_up = True
        raise AssertionError("it went on for nobody")

    monkeypatch.setattr(bench.engine, "infer_each", answers_the_first_only)
    outcomes = bench.manager.execution.run(batch)
    assert passes == [0, 1]
    assert outcomes[0] == {"shouted": "T0"}
    assert [type(one) for one in outcomes[1:]] == [Cancelled, Cancelled]
