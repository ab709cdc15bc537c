"""The Python surface as a notebook uses it: one import, one call, with nothing set but where MLflow is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from tests.recordings import librivox_recordings, normalized

PATIENCE_S = 240

QUESTION = """
from engines import inference_manager

def ask():
    return inference_manager.infer(
        task="text-generation",
        engine="transformers",
        model_name="smollm2-135m-instruct",
        data={"inputs": "What is the capital of France?"},
        options={"max_new_tokens": 8},
    )
"""

ONE_CALL = """
import asyncio, json

async def inside_a_running_loop():
    return ask()

answers = [ask(), asyncio.run(inside_a_running_loop())]
wrong = inference_manager.infer(task="asr", engine="transformers", model_name="smollm2-135m-instruct", data={})
stats = inference_manager.get_stats()
health = inference_manager.health_check()
cached = inference_manager.get_cached_models()
cleared = inference_manager.clear_cache()
print(json.dumps([answers, wrong, stats, health, cached, cleared, inference_manager.get_cached_models()]))
"""

THREADS = """
import json, threading
from concurrent.futures import ThreadPoolExecutor
from engines import BaseEngine, inference_manager, model_manager
from engines.registry import register_engine
from handlers import BaseModelHandler, model_registry

class CountHandler(BaseModelHandler):
    def preprocess(self, data, options):
        self.validate_input(data, ["number"])
        return {"number": data["number"]}

    def postprocess(self, result, options):
        return {"doubled": result["doubled"]}

class DoublingEngine(BaseEngine):
    '''Only what must be there: no call of super, a list of tasks, nothing returned from unload_model.'''

    def __init__(self, config):
        self.supported_tasks = ["count"]
        self.is_initialized = True
        self.loads = 0

    def load_model(self, name, **kw):
        self.loads += 1
        return {"by": 2}

    def infer(self, model, inputs, options):
        if inputs["number"] % 10 == 9:
            raise RuntimeError("a model that breaks")
        return {"doubled": inputs["number"] * model["by"]}

    def unload_model(self, model):
        model.clear()

model_registry.register_handler_manually("count", "count", CountHandler)
register_engine("doubling", DoublingEngine)
for name in ("twice", "twice-too"):
    model_manager.register_model_to_mlflow(
        model_name=name, model_source="local", model_path="model", tags={"task": "count", "engine": "doubling"}
    )

def ask(number):
    model = "twice" if number % 2 else "twice-too"
    data = {"number": number} if number % 5 else {}
    return inference_manager.infer(task="count", engine="doubling", model_name=model, data=data)

start = threading.Barrier(16)

def work(first):
    start.wait()
    return [ask(number) for number in range(first, first + 50)]

with ThreadPoolExecutor(16) as threads:
    answers = [answer for some in threads.map(work, range(0, 800, 50)) for answer in some]
right = [answer["result"]["doubled"] if answer["success"] else None for answer in answers]
loads = inference_manager.engines.get("doubling").loads
print(json.dumps([right, inference_manager.get_stats(), loads]))
"""


FROM_S3 = """
import json
from engines import inference_manager

answers = [
    inference_manager.infer(
        task="asr", engine="transformers", model_name="whisper-tiny.en", data={"audio": f"s3://media/{key}"}
    )
    for key in ("surface/clip.flac", "surface/nowhere.flac")
]
print(json.dumps(answers))
"""


def notebook(script: str, *, mlflow_uri: str, folder: Path, settings: Mapping[str, str] | None = None) -> Any:
    """Run a script as a notebook would, with MLflow's address as its only setting but for `settings`.

    Returns the JSON it prints last.
    """
    known = {name: value for name, value in os.environ.items() if "INFERSTREAM" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={
            **known,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "INFERSTREAM_MLFLOW__TRACKING_URI": mlflow_uri,
            **(settings or {}),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_one_import_and_one_call_answer_also_inside_a_running_loop(
    local_stack: LocalStack, real_models: None, tmp_path: Path
) -> None:
    answers, wrong, stats, health, cached, cleared, left = notebook(
        QUESTION + ONE_CALL, mlflow_uri=local_stack.mlflow.url, folder=tmp_path
    )
    for answer in answers:
        assert answer["success"], answer
        assert "Paris" in answer["result"]["generated_text"]
        assert answer["result"]["metadata"]["completion_tokens"] <= 8
    assert answers[0]["result"] == answers[1]["result"]
    assert wrong["success"] is False
    assert wrong["error"]["code"] == "MODEL_MISMATCH"
    assert (stats["total_inferences"], stats["successful_inferences"]) == (3, 2)
    assert stats["success_rate"] == pytest.approx(2 / 3)
    assert stats["cache_hit_rate"] == 0.5
    assert stats["tasks"]["text-generation"] == {"total": 2, "succeeded": 2, "failed": 0}
    assert stats["models"]["smollm2-135m-instruct"] == {"total": 3, "succeeded": 2, "failed": 1}
    assert health["status"] == "ok"
    assert set(health["components"]) == {"mlflow", "engines", "cache", "disk", "calls"}
    assert [row["model_name"] for row in cached] == ["smollm2-135m-instruct"]
    assert cached[0]["bytes"] > 500_000_000
    assert cleared == {"cleared": 1, "in_use": [], "kept": []}
    assert left == []


def test_media_on_s3_are_fetched_for_a_python_call(local_stack: LocalStack, real_models: None, tmp_path: Path) -> None:
    clip = next(clip for clip in librivox_recordings() if "0930" in clip.path.name)
    store = local_stack.s3.client()
    try:
        store.put_object(Bucket="media", Key="surface/clip.flac", Body=clip.path.read_bytes())
    finally:
        store.close()
    reach = local_stack.settings()["s3"]
    heard, missing = notebook(
        FROM_S3,
        mlflow_uri=local_stack.mlflow.url,
        folder=tmp_path,
        settings={f"INFERSTREAM_S3__{name.upper()}": str(value) for name, value in reach.items()},
    )
    assert heard["success"], heard
    assert normalized(heard["result"]["text"]) == clip.transcript
    assert missing["error"]["code"] == "MEDIA_NOT_FOUND"
    assert "data.audio" in missing["error"]["message"]


def test_counts_are_exact_when_16_threads_ask_an_engine_of_ones_own(local_stack: LocalStack, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("2")
    right, stats, loads = notebook(THREADS, mlflow_uri=local_stack.mlflow.url, folder=tmp_path)
    # Numbers that 5 divides are sent without data, and those that end in 9 break the model.
    answered = [number for number in range(800) if number % 5 and number % 10 != 9]
    assert right == [2 * number if number in answered else None for number in range(800)]
    odd = sum(number % 2 for number in answered)
    assert stats["total_inferences"] == 800
    assert stats["successful_inferences"] == len(answered)
    assert stats["failed_inferences"] == 800 - len(answered)
    assert stats["tasks"]["count"] == {"total": 800, "succeeded": 560, "failed": 240}
    assert stats["engines"]["doubling"] == stats["tasks"]["count"]
    assert stats["models"] == {
        "twice": {"total": 400, "succeeded": odd, "failed": 400 - odd},
        "twice-too": {"total": 400, "succeeded": len(answered) - odd, "failed": 400 - len(answered) + odd},
    }
    assert loads == stats["cache_misses"] == 2
    assert stats["cache_hits"] + stats["cache_misses"] == sum(number % 5 > 0 for number in range(800))
    assert stats["latency_s"]["count"] == 800
