"""What is checked of a request before anything is fetched or loaded for it, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.errors import ModelMismatch, RegistryUnavailable
from tests.unit.engines.parts import Bench, prepare


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"task": "sing"}, "UNKNOWN_TASK", "sing"),
        ({"engine": "steam"}, "UNKNOWN_ENGINE", "shouter"),
        ({"model_name": "nobody"}, "UNKNOWN_MODEL", "nobody"),
        ({"model_name": ""}, "INVALID_REQUEST", "model_name"),
        ({"model_name": None}, "INVALID_REQUEST", "model_name"),
        ({"data": "text"}, "INVALID_REQUEST", "data must be an object"),
        ({"data": {}}, "INVALID_INPUT", "data.text is required"),
        ({"data": {"text": "refuse"}}, "INVALID_INPUT", "refused"),
        ({"data": {"text": "value-error"}}, "INVALID_INPUT", "text must not be"),
        ({"options": {"temperature": -1}}, "INVALID_OPTION", "temperature"),
        ({"options": [1]}, "INVALID_OPTION", "options"),
        ({"task": "text-generation"}, "INVALID_REQUEST", "it runs shout"),
        ({"model_name": "other-task"}, "MODEL_MISMATCH", "task=asr"),
        ({"model_name": "other-engine"}, "MODEL_MISMATCH", "engine=ollama"),
    ],
)
def test_a_wrong_request_gets_an_error_that_says_what_is_wrong(
    bench: Bench, changes: dict[str, Any], code: str, says: str
) -> None:
    error = bench.error_of(**{"data": {"text": "hello"}, **changes})
    assert error["code"] == code
    assert says in error["message"]
    assert error["retryable"] is False
    assert bench.engine.loaded == []


def test_what_is_cheap_to_refuse_never_reaches_the_registry(bench: Bench) -> None:
    bench.infer({"text": "hello"}, task="sing")
    bench.infer({"text": "hello"}, engine="steam")
    bench.infer({"text": "hello"}, options={"temperature": -1})
    bench.infer("no object")
    assert not bench.models.asked


def test_a_registry_that_is_away_is_an_error_to_retry(bench: Bench) -> None:
    bench.models.resolve_error = RegistryUnavailable("MLflow is away")
    error = bench.error_of({"text": "hello"})
    assert (error["code"], error["retryable"]) == ("REGISTRY_UNAVAILABLE", True)


def test_a_mismatch_says_the_tag_what_it_says_and_what_the_request_said(bench: Bench) -> None:
    with pytest.raises(ModelMismatch, match=r"other-task/1 .* task=asr, .* task=shout"):
        prepare(bench, "hello", model_name="other-task")


def test_a_model_without_tags_serves_any_task(bench: Bench) -> None:
    assert bench.infer({"text": "hello"}, model_name="plain")["success"]
