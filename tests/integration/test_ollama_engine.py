"""OllamaEngine on real weights: llama.cpp behind an Ollama-like proxy, and a real Ollama where there is one.

Of the proxy only the framing is true (examples/models/ollama.py says what is not), so the tests look at texts,
pieces and bounds. Set OLLAMA_HOST to run them against a real server as well; OLLAMA_MODEL names the model there.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local import LocalStack
from engines.config.settings import CacheSettings, EngineSettings, MlflowSettings, OllamaSettings
from engines.configuration import address_of_ollama_host
from engines.inference import InferenceManager
from engines.models.model_manager import ModelManager
from engines.ollama.engine import OllamaEngine
from examples.models.ollama import MODEL, Ollama
from handlers.errors import InferenceError, InvalidInput, InvalidOption, ModelLoadFailed

QUESTION = {"inputs": "Name three colours."}
SHORT = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module", params=["llama.cpp", "live"])
def server(request: pytest.FixtureRequest) -> tuple[OllamaSettings, str]:
    """Settings that reach a server, and a model there."""
    if request.param == "live":
        host = os.environ.get("OLLAMA_HOST")
        if not host:
            pytest.skip("OLLAMA_HOST names no real Ollama server")
        return OllamaSettings(api_base=address_of_ollama_host(host)), os.environ.get("OLLAMA_MODEL", "smollm2:135m")
    local: Ollama = request.getfixturevalue("ollama_server")
    return OllamaSettings(api_base=local.url), MODEL


@pytest.fixture(scope="module")
def engine(server: tuple[OllamaSettings, str]) -> Iterator[OllamaEngine]:
    engine = OllamaEngine(server[0])
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model(engine: OllamaEngine, server: tuple[OllamaSettings, str]) -> Any:
    return engine.load_model("m", task="text-generation", tags={"ollama_model_name": server[1]})


def test_the_server_is_well(engine: OllamaEngine) -> None:
    health = engine.health()
    assert health["status"] == "ok"
    assert health["version"]


def test_a_prompt_is_answered_within_its_bound(engine: OllamaEngine, model: Any) -> None:
    result = engine.infer(model, QUESTION, SHORT)
    assert result["generated_text"].strip()
    assert 0 < result["completion_tokens"] <= 8
    assert result["finish_reason"] in {"stop", "length"}
    assert set(result["metadata"]) == {"load_s", "prompt_eval_s", "eval_s", "total_s"}


def test_the_answer_comes_in_pieces_that_make_up_the_text(engine: OllamaEngine, model: Any) -> None:
    pieces: list[str] = []
    result = engine.submit(model, QUESTION, {"max_new_tokens": 16}, pieces.append).result(120)
    assert len(pieces) > 1
    assert "".join(pieces) == result["generated_text"]


def test_a_conversation_is_answered(engine: OllamaEngine, model: Any) -> None:
    messages = [
        {"role": "system", "content": "You answer with one word."},
        {"role": "user", "content": "Say hello. 日本語 🙂"},
    ]
    assert engine.infer(model, {"messages": messages}, SHORT)["generated_text"].strip()


def test_an_answer_ends_before_its_stop_string(engine: OllamaEngine, model: Any) -> None:
    whole = engine.infer(model, QUESTION, {"max_new_tokens": 16, "do_sample": False})["generated_text"]
    stop = whole.split()[1]
    assert whole.index(stop) > 0
    cut = engine.infer(model, QUESTION, {"max_new_tokens": 16, "do_sample": False, "stop": [stop]})
    assert stop not in cut["generated_text"]


def test_greedy_answers_side_by_side_are_complete(engine: OllamaEngine, model: Any) -> None:
    inputs = [{"inputs": f"Count from {number} upwards."} for number in range(6)]
    answers = [engine.submit(model, one, SHORT) for one in inputs]
    assert all(answer.result(60)["generated_text"] for answer in answers)


def test_a_cancelled_answer_stops_and_the_next_one_comes(engine: OllamaEngine, model: Any) -> None:
    heard = threading.Event()
    pieces: list[str] = []

    def listen(piece: str) -> None:
        pieces.append(piece)
        heard.set()

    future = engine.submit(model, {"inputs": "Tell a long story."}, {"max_new_tokens": 500}, listen)
    assert heard.wait(60)
    assert future.cancel()
    assert engine.infer(model, QUESTION, SHORT)["generated_text"].strip()
    assert len(pieces) < 450


@pytest.fixture
def live(server: tuple[OllamaSettings, str]) -> OllamaSettings:
    """A real server; the proxy does none of what the tests that ask for it look at."""
    if server[1] == MODEL:
        pytest.skip("the proxy answers in its own way here; set OLLAMA_HOST")
    return server[0]


def test_an_answer_that_repeats_itself_is_a_success(live: OllamaSettings, engine: OllamaEngine, model: Any) -> None:
    repeat = {"inputs": "Repeat for ever: no no no no no no no no no no no no"}
    result = engine.infer(model, repeat, {"do_sample": False, "max_new_tokens": 400, "repetition_penalty": 0.1})
    assert result["finish_reason"] == "repetition"
    assert result["generated_text"].strip()


def test_a_prompt_beyond_the_context_is_refused_unless_it_may_be_cut(
    live: OllamaSettings, engine: OllamaEngine, model: Any
) -> None:
    inputs = {"inputs": "word " * 1000}
    with pytest.raises(InvalidInput, match="exceeds the context length"):
        engine.infer(model, inputs, {**SHORT, "num_ctx": 256})
    assert engine.infer(model, inputs, {**SHORT, "num_ctx": 256, "truncate": True})["prompt_tokens"] <= 256


def test_a_name_that_the_server_does_not_take_blames_the_tag(live: OllamaSettings, engine: OllamaEngine) -> None:
    with pytest.raises(ModelLoadFailed, match="tag ollama_model_name"):
        engine.load_model("m", tags={"ollama_model_name": "no such/model name!!"})


def test_a_model_that_nobody_has_cannot_be_pulled(live: OllamaSettings, engine: OllamaEngine) -> None:
    with pytest.raises(InferenceError) as caught:
        engine.load_model("m", tags={"ollama_model_name": f"nobody/{uuid.uuid4().hex}"})
    assert caught.value.code in {"MODEL_LOAD_FAILED", "ENGINE_UNAVAILABLE"}


def test_a_bad_schema_is_a_refused_option(live: OllamaSettings, engine: OllamaEngine, model: Any) -> None:
    with pytest.raises(InvalidOption, match="format"):
        engine.infer(model, QUESTION, {**SHORT, "format": {"type": "no such type"}})


def test_the_context_is_bounded_by_what_the_model_was_made_for(
    live: OllamaSettings, engine: OllamaEngine, model: Any
) -> None:
    with pytest.raises(InvalidOption, match=r"ollama\.max_context allows at most \d+"):
        engine.infer(model, QUESTION, {**SHORT, "num_ctx": 2**30})


def test_a_model_registered_in_mlflow_answers_through_the_manager(
    server: tuple[OllamaSettings, str], local_stack: LocalStack, model_manager: ModelManager, tmp_path: Path
) -> None:
    settings, ollama_name = server
    name = f"smollm2-ollama-{uuid.uuid4().hex[:8]}"
    model_manager.register_model_to_mlflow(
        model_name=name,
        model_source="ollama",
        tags={"task": "text-generation", "engine": "ollama", "ollama_model_name": ollama_name},
    )
    manager = InferenceManager.from_settings(
        EngineSettings(
            mlflow=MlflowSettings(tracking_uri=local_stack.mlflow.url),
            cache=CacheSettings(directory=tmp_path),
            ollama=settings,
        )
    )
    try:
        answer = manager.infer(task="text-generation", engine="ollama", model_name=name, data=QUESTION, options=SHORT)
        assert answer["success"], answer
        assert answer["result"]["generated_text"].strip()
        assert answer["result"]["metadata"]["finish_reason"] in {"stop", "length"}
        assert answer["model_version"] == "1"
        assert [row["model_name"] for row in manager.get_cached_models()] == [name]
        refused = manager.infer(task="text-generation", engine="transformers", model_name=name, data=QUESTION)
        assert refused["error"]["code"] == "MODEL_MISMATCH"
        blind = manager.infer(task="text-generation", engine="ollama", model_name=name, data={"inputs": 1})
        assert blind["error"]["code"] == "INVALID_INPUT"
    finally:
        manager.engines.get("ollama").close()
        manager.close()
