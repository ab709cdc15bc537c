"""The way of a request through the manager: what is checked when, what comes back, what is counted."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engines.results import STAGES
from handlers.errors import (
    InvalidInput,
    ModelMismatch,
    RegistryUnavailable,
)
from tests.unit.engines.parts import Bench, prepare


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_answer_has_every_field_of_a_result(bench: Bench) -> None:
    result = bench.infer({"text": "hello"}, id="x-1", metadata={"batch": 7})
    assert result["success"] is True
    assert result["result"] == {"text": "HELLO", "metadata": {"length": 5}}
    assert result["error"] is None
    assert (result["task"], result["engine"], result["model_name"]) == ("shout", "shouter", "tagged")
    assert (result["id"], result["model_version"], result["metadata"]) == ("x-1", "3", {"batch": 7})
    assert tuple(result["timings"]) == STAGES
    assert result["processing_time"] >= sum(result["timings"].values())
    assert abs(result["timestamp"] - time.time()) < 60
    assert result["attempt"] == 1
    assert result["worker"]


def test_a_request_without_an_id_gets_one_of_its_own(bench: Bench) -> None:
    ids = {bench.infer({"text": "hello"})["id"] for _ in range(3)}
    assert len(ids) == 3
    assert "" not in ids


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


@pytest.mark.parametrize("text", ["preprocess-bug", "postprocess-bug"])
def test_a_bug_in_a_handler_is_an_internal_error_that_hides_its_details(bench: Bench, text: str) -> None:
    error = bench.error_of({"text": text})
    assert error["code"] == "INTERNAL_ERROR"
    assert "a bug" not in error["message"]


def test_a_model_that_breaks_on_an_input_is_a_failed_inference(bench: Bench) -> None:
    assert bench.error_of({"text": "engine-bug"})["code"] == "INFERENCE_FAILED"


def test_a_wrong_keyword_is_a_programming_error_and_raises(bench: Bench) -> None:
    with pytest.raises(TypeError):
        bench.manager.infer(task="shout", engine="shouter", model="tagged", data={})  # type: ignore[call-arg]


async def test_infer_works_inside_a_running_event_loop(bench: Bench) -> None:
    assert bench.infer({"text": "hello"})["success"]


def test_media_become_bytes_before_the_handler_sees_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.infer({"media": b"bytes"})["result"]["text"] == "BYTES"
    assert bench.infer({"media": "data:,uri"})["result"]["text"] == "URI"
    assert bench.error_of({"media": "s3://bucket/key"})["code"] == "INVALID_INPUT"


def test_prepare_raises_what_the_fetcher_raises(tmp_path: Path) -> None:
    def refuse(address: str) -> Any:
        raise InvalidInput(f"{address} is refused")

    bench = Bench(tmp_path, fetch_media=refuse)
    with pytest.raises(InvalidInput, match="s3://bucket/key is refused"):
        prepare(bench, "", data={"media": "s3://bucket/key"})


def test_importing_the_managers_brings_in_no_heavy_library() -> None:
    script = (
        "import sys; import engines.inference, engines.models; "
        "from engines import inference_manager; assert inference_manager.get_stats()['total_inferences'] == 0; "
        "print(sorted({'torch', 'transformers', 'mlflow', 'faust', 'boto3'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
