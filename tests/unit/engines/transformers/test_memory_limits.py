"""What fits a model's memory at once: halved, remembered, and nothing kept of what failed."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch

from engines.base import wanted_while
from engines.transformers import device
from engines.transformers.engine import TransformersEngine
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.runner import Outcome, TaskRunner
from handlers.errors import Cancelled, InferenceFailed, OutOfMemory
from tests.device import on_this_machine


class Memory:
    """Has room for costs that come to 6 at once, padded to the largest; items are their own costs."""

    def __init__(self, room: float = 6.0) -> None:
        self.room = room
        self.ran: list[list[float]] = []

    def run(self, items: Sequence[float]) -> list[str]:
        self.ran.append(list(items))
        if len(items) * max(items) > self.room:
            raise torch.OutOfMemoryError("no room")
        return [f"done {item:g}" for item in items]


def done(*items: float) -> list[str]:
    return [f"done {item:g}" for item in items]


def test_everything_runs_together_until_something_does_not_fit() -> None:
    memory, budget = Memory(), ShrinkOnOutOfMemory("m")
    assert budget.run(memory.run, [1.0] * 6, [1.0] * 6) == done(*[1] * 6)
    assert memory.ran == [[1.0] * 6]


def test_what_does_not_fit_is_halved_until_it_does_and_later_batches_are_cut_beforehand() -> None:
    memory, budget = Memory(), ShrinkOnOutOfMemory("m")
    assert budget.run(memory.run, [1.0] * 20, [1.0] * 20) == done(*[1] * 20)
    assert [len(part) for part in memory.ran] == [20, 10, 5, 5, 5, 5]
    memory.ran.clear()
    budget.run(memory.run, [1.0] * 7, [1.0] * 7)
    assert [len(part) for part in memory.ran] == [5, 2]


def test_a_part_counts_its_items_times_the_largest_as_they_are_padded_to_it() -> None:
    memory, budget = Memory(), ShrinkOnOutOfMemory("m", most=6.0)
    items = [1.0, 2.0, 3.0, 6.0, 1.0]
    assert budget.run(memory.run, items, items) == done(*items)
    assert memory.ran == [[1.0, 2.0], [3.0], [6.0], [1.0]]


def test_a_batch_of_short_items_is_larger_than_one_of_long_ones_after_either_did_not_fit() -> None:
    memory, budget = Memory(), ShrinkOnOutOfMemory("m")
    budget.run(memory.run, [3.0] * 4, [3.0] * 4)
    memory.ran.clear()
    budget.run(memory.run, [0.5] * 12, [0.5] * 12)
    assert [len(part) for part in memory.ran] == [12]


def test_an_item_that_does_not_fit_by_itself_is_worth_another_try_and_says_nothing_about_smaller_ones() -> None:
    budget = ShrinkOnOutOfMemory("m")
    with pytest.raises(OutOfMemory, match="model m ran out of memory on this input"):
        budget.run(Memory().run, [7.0], [7.0])
    assert budget.most == math.inf


def test_items_that_cost_nothing_are_halved_as_well() -> None:
    ran: list[int] = []

    def run(items: Sequence[float]) -> Sequence[float]:
        ran.append(len(items))
        if len(items) > 2:
            raise MemoryError
        return items

    assert ShrinkOnOutOfMemory("m").run(run, [0.0] * 4, [0.0] * 4) == [0.0] * 4
    assert ran == [4, 2, 2]


def test_half_of_what_did_not_fit_is_the_most_and_that_never_grows_again() -> None:
    limit = ShrinkOnOutOfMemory("m", most=100.0)
    limit.shrink(60.0)
    assert limit.most == 30.0
    limit.shrink(90.0)
    assert limit.most == 30.0


def test_no_part_runs_for_callers_who_have_gone() -> None:
    """Windows of a recording of hours ran on long after its deadline, and held up the requests behind it."""
    ran: list[Sequence[float]] = []

    def run(items: Sequence[float]) -> Sequence[float]:
        ran.append(items)
        return items

    with wanted_while(lambda: len(ran) < 2), pytest.raises(Cancelled):
        ShrinkOnOutOfMemory("m", most=1.0).run(run, [1.0, 2.0, 3.0], [1.0] * 3)
    assert ran == [[1.0], [2.0]]


def test_any_other_error_is_that_of_the_whole_run() -> None:
    def broken(items: Sequence[float]) -> Sequence[float]:
        raise ValueError("odd shape")

    budget = ShrinkOnOutOfMemory("m")
    with pytest.raises(ValueError, match="odd shape"):
        budget.run(broken, [1.0, 1.0], [1.0, 1.0])
    assert budget.most == math.inf


class Hungry:
    """Allocates a tensor for every run and keeps track of those that are still alive when memory is freed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.alive_when_freed: list[int] = []
        self.alive_when_run: list[int] = []
        monkeypatch.setattr(module, "free_memory", lambda: self.alive_when_freed.append(self.alive))

    @property
    def alive(self) -> int:
        return sum(one() is not None for one in self.made)

    def run(self, count: int) -> None:
        self.alive_when_run.append(self.alive)
        tensor = torch.zeros(count)
        self.made.append(weakref.ref(tensor))
        if count > 1:
            raise torch.OutOfMemoryError("no room")


@pytest.fixture
def without_collector() -> Any:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
def test_nothing_of_a_failed_run_is_alive_when_memory_is_freed_and_the_next_one_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hungry = Hungry(monkeypatch, device)

    def run(items: Sequence[float]) -> Sequence[float]:
        hungry.run(len(items))
        return items

    ShrinkOnOutOfMemory("m").run(run, [1.0] * 4, [1.0] * 4)
    assert hungry.alive_when_freed == [0, 0]
    assert hungry.alive_when_run == [0] * 6


class Recorder(TaskRunner):
    """Runs batches by a function of their names."""

    def __init__(self, run: Callable[[list[str]], None]) -> None:
        super().__init__("m", cast(Any, None))
        self._run = run
        self.ran: list[list[str]] = []

    @classmethod
    def load(cls, folder: Any, shared: Any) -> Recorder:
        raise NotImplementedError

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> Any:
        return inputs["inputs"]

    def answer(self, prepared: Sequence[str]) -> Iterator[tuple[int, Outcome]]:
        names = list(prepared)
        self.ran.append(names)
        self._run(names)
        for place, name in enumerate(names):
            yield place, {"text": name}


def room_for_three(names: list[str]) -> None:
    if len(names) > 3 or "giant" in names:
        raise MemoryError
    if "odd" in names:
        raise ValueError("a shape")


def infer(runner: TaskRunner, names: str) -> list[Outcome]:
    inputs = [{"inputs": name} for name in names.split()]
    return TransformersEngine(on_this_machine()).infer_batch(runner, inputs, [{}] * len(inputs))


def test_the_engine_runs_a_batch_that_does_not_fit_in_halves_and_cuts_later_ones_beforehand() -> None:
    runner = Recorder(room_for_three)
    assert infer(runner, "a b c d") == [{"text": name} for name in "abcd"]
    assert runner.ran == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"]]
    runner.ran.clear()
    assert infer(runner, "e f g h i") == [{"text": name} for name in "efghi"]
    assert runner.ran == [["e", "f"], ["g", "h"], ["i"]]


def test_an_input_too_large_by_itself_fails_alone() -> None:
    outcomes = infer(Recorder(room_for_three), "a giant c")
    assert [type(one) for one in outcomes] == [dict, OutOfMemory, dict]


@pytest.mark.logs_errors("inference_failed")
def test_a_bad_input_fails_alone_and_makes_no_batch_smaller() -> None:
    runner = Recorder(room_for_three)
    outcomes = infer(runner, "a odd c")
    assert [type(one) for one in outcomes] == [dict, InferenceFailed, dict]
    assert runner.budget.most == math.inf


@pytest.mark.usefixtures("without_collector")
def test_the_engine_keeps_nothing_of_a_failed_batch_in_its_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    hungry = Hungry(monkeypatch, device)

    def run(names: list[str]) -> None:
        hungry.run(len(names))
        if "bad" in names:
            tensor = torch.zeros(1)
            hungry.made.append(weakref.ref(tensor))
            raise InferenceFailed("a shape")

    outcomes = infer(Recorder(run), "a bad c d")
    assert [type(one) for one in outcomes] == [dict, InferenceFailed, dict, dict]
    assert hungry.alive == 0
    assert set(hungry.alive_when_run) == {0}


@pytest.mark.logs_errors("inference_failed")
def test_those_who_are_answered_early_are_told_by_their_number_in_the_whole_batch() -> None:
    runner, told = Recorder(room_for_three), list[tuple[int, Outcome]]()
    inputs = [{"inputs": name} for name in ["a", "b", "c", "odd", "e"]]
    engine = TransformersEngine(on_this_machine())
    outcomes = engine.infer_each(runner, inputs, [{}] * 5, lambda number, one: told.append((number, one)))
    assert [type(one) for one in outcomes] == [dict, dict, dict, InferenceFailed, dict]
    assert dict(told) == {number: {"text": "abc e"[number]} for number in (0, 1, 2, 4)}
