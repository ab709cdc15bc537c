"""What inputs cost, and batches of what fits a model's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from engines.settings import TransformersSettings
from engines.transformers.costs import BatchBudget, cost_in, cost_of, most_cost_in
from engines.transformers.engine import TransformersEngine
from engines.transformers.runner import RUNNERS, Outcome, TaskRunner
from handlers.errors import InferenceFailed, OutOfMemory
from tests.device import on_this_machine

SOUND = {"audio": np.zeros(32_000, np.float32), "sampling_rate": 16_000}


@pytest.mark.parametrize(
    ("inputs", "cost"),
    [
        (SOUND, 2.0),
        ({"image": Image.new("RGB", (200, 100))}, 20_000.0),
        ({"frames": np.zeros((8, 4, 4, 3), np.uint8)}, 8.0),
        ({"pages": [{}, {}, {}]}, 3.0),
        ({"inputs": "a text"}, 1.0),
    ],
    ids=["sound", "image", "video", "document", "text"],
)
def test_inputs_cost_what_decides_their_memory(inputs: dict[str, Any], cost: float) -> None:
    assert cost_of(inputs) == cost


def test_a_short_recording_costs_the_window_that_is_heard_of_it_in_asr_only() -> None:
    assert cost_in("asr", SOUND) == 30.0
    assert cost_in("audio-classification", SOUND) == 2.0


def test_every_task_that_runs_in_batches_has_a_limit() -> None:
    batched = set(RUNNERS) - TransformersEngine.continuous_tasks
    limits = {task: most_cost_in(task, TransformersSettings()) for task in batched}
    assert all(0 < limit < math.inf for limit in limits.values()), limits


def test_a_model_takes_everything_until_something_did_not_fit() -> None:
    budget = BatchBudget("m")
    assert budget.parts([1.0] * 100) == [slice(0, 100)]
    budget.exceeded([1.0] * 8)
    assert budget.parts([1.0] * 10) == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_parts_count_their_inputs_times_the_largest() -> None:
    budget = BatchBudget("m")
    budget.most_cost = 6.0
    assert budget.parts([1.0, 2.0, 3.0, 9.0, 1.0]) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]


def test_one_input_that_does_not_fit_says_nothing_about_smaller_ones_together() -> None:
    budget = BatchBudget("m")
    budget.exceeded([1000.0])
    assert budget.most_cost == math.inf


class Memory(TaskRunner):
    """Has room for three inputs at once."""

    def __init__(self) -> None:
        super().__init__("m", cast(Any, None))
        self.ran: list[list[str]] = []

    @classmethod
    def load(cls, folder: Any) -> TaskRunner:
        raise NotImplementedError

    def run(self, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]) -> list[Outcome]:
        names = [one["inputs"] for one in inputs]
        self.ran.append(names)
        if len(inputs) > 3 or "giant" in names:
            raise MemoryError
        if "odd" in names:
            raise ValueError("a shape")
        return [{"text": name} for name in names]


def infer(runner: Memory, names: str) -> list[Outcome]:
    inputs = [{"inputs": name} for name in names.split()]
    return TransformersEngine(on_this_machine()).infer_batch(runner, inputs, [{}] * len(inputs))


def test_a_batch_that_does_not_fit_runs_in_halves_and_later_ones_are_cut_beforehand() -> None:
    runner = Memory()
    assert infer(runner, "a b c d") == [{"text": name} for name in "abcd"]
    assert runner.ran == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"]]
    runner.ran.clear()
    assert infer(runner, "e f g h i") == [{"text": name} for name in "efghi"]
    assert runner.ran == [["e", "f"], ["g", "h"], ["i"]]


def test_an_input_too_large_by_itself_fails_alone_and_is_worth_another_try() -> None:
    outcomes = infer(Memory(), "a giant c")
    assert [type(one) for one in outcomes] == [dict, OutOfMemory, dict]


def test_a_bad_input_fails_alone_and_makes_no_batch_smaller() -> None:
    runner = Memory()
    outcomes = infer(runner, "a odd c")
    assert [type(one) for one in outcomes] == [dict, InferenceFailed, dict]
    assert runner.budget.most_cost == math.inf
