"""The table is whole: a new task, engine or handler without a row fails here, and nowhere else."""

from __future__ import annotations

import pytest

from engines.config.settings import EngineSettings
from engines.registry import EngineRegistry
from handlers.registry import HandlerRegistry
from tests.contract.cases import CASES, Case
from tests.contract.outputs import OUTPUTS

TASKS = HandlerRegistry().tasks()
_ENGINES = EngineRegistry(EngineSettings())
PAIRS = [(task, name) for name in _ENGINES.names() for task in sorted(_ENGINES.get(name).supported_tasks or TASKS)]


@pytest.mark.parametrize(("task", "engine"), PAIRS)
def test_every_task_of_an_engine_has_a_case_and_a_handler(task: str, engine: str) -> None:
    assert (task, engine) in {(case.task, case.engine) for case in CASES}, "add a row to tests/contract/cases.py"
    assert task in TASKS, f"engine {engine} says that it runs {task}, for which no handler is registered"


@pytest.mark.parametrize("task", TASKS)
def test_every_handler_has_a_case_an_output_and_an_engine(task: str) -> None:
    assert task in OUTPUTS, "add a line to tests/contract/outputs.py"
    assert task in {case.task for case in CASES}, "add a row to tests/contract/cases.py"
    assert task in {task for task, _ in PAIRS}, "no engine runs it"


def test_every_case_is_of_a_task_that_its_engine_runs() -> None:
    assert {(case.task, case.engine) for case in CASES} <= set(PAIRS)
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_says_what_is_wrong_for_every_field_of_its_data(case: Case) -> None:
    data = case.data()
    assert data.keys() <= case.wrong.keys()
    assert {*case.media, *case.texts, *case.optional} <= data.keys()
    fields = HandlerRegistry().get(case.task).media_fields
    assert set(case.media) == {name for name in fields if name in data}
