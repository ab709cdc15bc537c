"""What is checked of a request before anything is fetched or loaded for it."""

from __future__ import annotations

from typing import Any

from engines.base import BaseEngine
from engines.models.resolved_model import ResolvedModel
from handlers.errors import InvalidInput, InvalidRequest


def check_names(task: Any, engine: Any, model_name: Any) -> None:
    """Check the types of a request's names; `engine` may be empty.

    Raises:
        InvalidRequest: permanent; names the field and what came.
    """
    for name, value in (("task", task), ("engine", engine), ("model_name", model_name)):
        if not isinstance(value, str) or not (value or name == "engine"):
            raise InvalidRequest(
                f"{name} must be a text that is not empty; got {type(value).__name__} {value!r:.60}"
            )


def check_data(data: Any) -> None:
    """Check the type of a request's data.

    Raises:
        InvalidRequest: permanent; says what came.
    """
    if not isinstance(data, dict):
        raise InvalidRequest(f"data must be an object with the task's inputs; got {type(data).__name__}")


def check_texts(name: str, value: Any) -> None:
    """Check that every text in `value`, however deep in lists and objects, can be written as UTF-8.

    JSON from outside always can; a Python string may hold half of a character that is written as a pair.

    Raises:
        InvalidInput: permanent; names the place and the character.
    """
    match value:
        case str():
            try:
                value.isascii() or value.encode()
            except UnicodeEncodeError as error:
                raise InvalidInput(
                    f"{name} is not Unicode text: at {error.start} stands {value[error.start]!a}, half of a surrogate "
                    "pair; decode it from bytes with errors='replace'"
                ) from None
        case dict():
            for key, one in value.items():
                check_texts(f"{name}.{key!s:.60}", one)
        case list() | tuple():
            for index, one in enumerate(value):
                check_texts(f"{name}[{index}]", one)


def check_engine(runner: BaseEngine, engine: str, task: str) -> None:
    """Check that the engine runs the task.

    Raises:
        InvalidRequest: permanent; names the tasks it runs.
    """
    if runner.supported_tasks and task not in runner.supported_tasks:
        runs = ", ".join(sorted(runner.supported_tasks))
        raise InvalidRequest(f"engine {engine} does not run task {task}; it runs {runs}")


def engine_of(model: ResolvedModel) -> str:
    """Return the engine of a request that names none.

    Raises:
        InvalidRequest: permanent; the model's tags name none either.
    """
    if not model.engine:
        raise InvalidRequest(
            f"engine is left out, and the tags of model {model.key} name none; write engine in the request, or "
            "register the model with the tag engine"
        )
    return model.engine
