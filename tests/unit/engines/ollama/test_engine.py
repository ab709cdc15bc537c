"""The engine asks a server that behaves: answers, batches, health, what it is made from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image

from engines.config.settings import EngineSettings, OllamaSettings
from engines.ollama.engine import OllamaEngine
from engines.registry import EngineRegistry
from handlers.errors import InferenceError, InternalError
from tests.unit.engines.ollama import fake_faults as faults
from tests.unit.engines.ollama.engines import GENERATE, HELLO, engine_for
from tests.unit.engines.ollama.fake_models import FakeModel
from tests.unit.engines.ollama.fake_ollama import FakeOllama


def test_a_prompt_is_answered_with_counts_and_times(engine: OllamaEngine, model: Any) -> None:
    assert engine.infer(model, HELLO, {}) == {
        "generated_text": "You said: hello there",
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "finish_reason": "stop",
        "metadata": {"load_s": 1.0, "prompt_eval_s": 0.5, "eval_s": 2.0, "total_s": 4.0},
    }


def test_a_conversation_is_answered_to_its_last_message(engine: OllamaEngine, model: Any) -> None:
    messages = [{"role": "system", "content": "Echo."}, {"role": "user", "content": "日本 🙂"}]
    result = engine.infer(model, {"messages": messages}, {"max_new_tokens": 3})
    assert result["generated_text"] == "You said: 日本"
    assert result["finish_reason"] == "length"
    assert result["completion_tokens"] == 3


def test_counts_that_the_server_omits_are_0(engine: OllamaEngine, model: Any) -> None:
    result = engine.infer(model, HELLO, {"stop": ["You"]})
    assert (result["generated_text"], result["completion_tokens"]) == ("", 0)


def test_an_answer_in_a_format_comes_as_such(engine: OllamaEngine, model: Any) -> None:
    assert engine.infer(model, HELLO, {"format": "json"})["generated_text"] == '{"answer": 42}'
    assert engine.infer(model, HELLO, {"format": {"type": "object"}})["generated_text"] == '{"answer": 42}'


@pytest.mark.parametrize("inputs", [HELLO, {"messages": [{"role": "user", "content": "hello there"}]}])
def test_thoughts_come_beside_the_answer_and_are_not_emitted(
    fake: FakeOllama, engine: OllamaEngine, inputs: dict[str, Any]
) -> None:
    fake.models["wise"] = FakeModel(("completion", "thinking"))
    heard: list[str] = []
    model = engine.load_model("wise", task="text-generation")
    result = engine.submit(model, inputs, {"think": True}, heard.append).result(20)
    assert result["thinking"] == "Hmm, an echo."
    assert heard == ["You", " said:", " hello", " there"]


def test_images_reach_the_model(fake: FakeOllama, engine: OllamaEngine) -> None:
    fake.models["seer"] = FakeModel(("completion", "vision"))
    model = engine.load_model("seer", task="vlm")
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "image"}]
    inputs = {
        "images": [Image.new("RGB", (3, 2), (255, 0, 0)), Image.new("RGB", (4, 5), (0, 0, 9))],
        "messages": [{"role": "user", "content": parts}],
    }
    result = engine.infer(model, inputs, {})
    assert result["generated_text"] == "I see PNG 3x2 (255, 0, 0) and PNG 4x5 (0, 0, 9)"


def test_a_batch_keeps_its_order_and_a_bad_one_costs_its_neighbours_nothing(engine: OllamaEngine, model: Any) -> None:
    inputs = [{"inputs": "one"}, {"inputs": "two"}, {"inputs": "three"}]
    first, second, third = engine.infer_batch(model, inputs, [{}, {"think": True}, {}])
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert [first["generated_text"], third["generated_text"]] == ["You said: one", "You said: three"]
    assert isinstance(second, InferenceError)
    assert (second.code, second.retryable) == ("INVALID_OPTION", False)


def test_the_penalty_of_a_modelfile_is_kept(fake: FakeOllama, engine: OllamaEngine) -> None:
    fake.models["own"] = FakeModel(parameters="stop    X\nrepeat_penalty    1.25")
    engine.infer(engine.load_model("own"), HELLO, {})
    assert fake.bodies(GENERATE)[-1]["options"] == {"repeat_penalty": 1.25}


@pytest.mark.logs_errors("emit_failed")
def test_a_listener_that_fails_costs_nobody_the_answer(engine: OllamaEngine, model: Any) -> None:
    heard: list[str] = []

    def listen(piece: str) -> None:
        heard.append(piece)
        raise ValueError("a bug of the listener")

    result = engine.submit(model, HELLO, {}, listen).result(20)
    assert result["generated_text"] == "You said: hello there"
    assert heard == ["You"]


def test_health_tells_the_version_and_what_is_loaded(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    engine.infer(model, HELLO, {})
    assert engine.health() == {"status": "ok", "server": fake.url, "version": "0.33.0", "loaded": ["echo"]}


def test_health_does_not_wait_for_a_server_that_hangs(
    fake: FakeOllama, engine: OllamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ollama.client.HEALTH_TIMEOUT_S", 0.1)
    fake.fail("/api/version", faults.silent)
    assert engine.health()["status"] == "error"
    fake.release()


def test_the_registry_makes_it_from_its_section_of_the_settings(fake: FakeOllama) -> None:
    registry = EngineRegistry(EngineSettings(ollama=OllamaSettings(api_base=fake.url)))
    engine = registry.get("ollama")
    assert isinstance(engine, OllamaEngine)
    assert engine.health()["version"] == "0.33.0"
    assert not engine.needs_files
    assert engine.continuous_tasks == {"text-generation", "vlm"}
    engine.close()


@pytest.mark.parametrize("wrong", ["localhost:11434", "ftp://host", ""])
def test_an_address_without_http_is_a_setting_that_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="api_base"):
        OllamaSettings(api_base=wrong)


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(
    fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with engine_for(fake.url) as engine:
        assert engine.health()["status"] == "ok"


@pytest.mark.parametrize("kind", [KeyError, BaseException, SystemExit, asyncio.CancelledError])
@pytest.mark.logs_errors("background_work_failed")
def test_a_fault_of_ours_is_an_internal_error_and_the_next_request_is_answered(
    engine: OllamaEngine, model: Any, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def broken(*_: Any) -> Any:
        raise kind("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("engines.ollama.engine.build", broken)
        with pytest.raises(InternalError, match=kind.__name__):
            engine.infer(model, HELLO, {})
    assert engine.infer(model, HELLO, {})["generated_text"]


@pytest.mark.parametrize("kind", [KeyError, BaseException, SystemExit, asyncio.CancelledError])
@pytest.mark.logs_errors("emit_failed")
def test_a_listener_that_raises_anything_costs_nobody_the_answer(
    engine: OllamaEngine, model: Any, kind: type[BaseException]
) -> None:
    def emit(text: str) -> None:
        raise kind("a bug")

    assert engine.submit(model, HELLO, {}, emit).result(20)["generated_text"]
