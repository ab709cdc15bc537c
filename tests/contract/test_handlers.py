"""Every registered handler: what it declares, and that threads may share it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.base import BaseModelHandler
from handlers.errors import InvalidInput
from handlers.options.options import validate_options
from handlers.registry import HandlerRegistry
from tests.contract.cases import CASES, Case

REGISTRY = HandlerRegistry()

every_handler = pytest.mark.parametrize("task", REGISTRY.tasks())
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def same(one: Any, other: Any) -> bool:
    """Return whether two inputs are equal, arrays and images by what is in them."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Image.Image):
        return same(np.asarray(one), np.asarray(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@every_handler
def test_a_handler_declares_its_task_media_and_options(task: str) -> None:
    handler = REGISTRY.get(task)
    assert isinstance(handler, BaseModelHandler)
    assert handler.task == task
    assert isinstance(handler.media_fields, tuple)
    assert all(isinstance(name, str) for name in handler.media_fields)
    assert handler.options is None or all(name == spec.name for name, spec in handler.options.items())


@every_handler
def test_a_handler_names_what_is_missing_and_the_task(task: str) -> None:
    handler = REGISTRY.get(task)
    with pytest.raises(InvalidInput, match=r"data\.\w+"):
        handler.preprocess({}, {})
    with pytest.raises(InvalidInput, match=rf"data\.wanted is required for task {task}; got came"):
        handler.validate_input({"came": 1}, ["wanted"])


@every_case
def test_threads_share_a_handler_and_data_stay_as_they_were(case: Case) -> None:
    handler = REGISTRY.get(case.task)
    options = validate_options(case.options, task_options=handler.options, engine=case.engine)
    data, before = case.data(), deepcopy(case.data())
    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(lambda _: handler.preprocess(data, options), range(4))
    assert all(same(first, other) for other in others)
    assert same(data, before)
    assert options == validate_options(case.options, task_options=handler.options, engine=case.engine)
