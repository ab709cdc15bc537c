"""The engine against every way in which a server misbehaves: no short answer passes for a whole one."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from engines.ollama.engine import OllamaEngine
from engines.ollama.request import OllamaModel
from handlers.errors import EngineUnavailable, InferenceError
from tests.processes import wait_until
from tests.unit.engines.ollama import fake_faults as faults
from tests.unit.engines.ollama.engines import CHAT, GENERATE, HELLO, engine_for
from tests.unit.engines.ollama.fake_faults import Fault, Refusal
from tests.unit.engines.ollama.fake_ollama import FakeOllama


@pytest.mark.parametrize("inputs", [HELLO, {"messages": [{"role": "user", "content": "hello there"}]}])
@pytest.mark.parametrize("cut", [faults.byte_by_byte, faults.with_empty_lines])
def test_however_a_stream_is_cut_the_answer_is_whole(
    fake: FakeOllama, engine: OllamaEngine, model: Any, inputs: dict[str, Any], cut: Fault
) -> None:
    for path in (GENERATE, CHAT):
        fake.fail(path, cut)
    assert engine.infer(model, inputs, {})["generated_text"] == "You said: hello there"


@pytest.mark.parametrize(
    ("fault", "code", "is_retryable", "said"),
    [
        (faults.without_end, "ENGINE_UNAVAILABLE", True, "ended its answer for model echo without `done`"),
        (faults.dropped, "ENGINE_UNAVAILABLE", True, "the connection to Ollama at http://127.0.0.1"),
        (faults.cut_within_a_line, "ENGINE_UNAVAILABLE", True, 'it sent b\'{"model"'),
        (faults.garbage, "ENGINE_UNAVAILABLE", True, "it sent b'<html>Bad Gateway</html>'"),
        (faults.error_line("runner process has died"), "ENGINE_UNAVAILABLE", True, "runner process has died"),
        (faults.error_line("out of memory"), "OUT_OF_MEMORY", True, "out of memory"),
        (faults.error_line("bad template"), "INFERENCE_FAILED", False, "bad template"),
        (faults.error_line(""), "INFERENCE_FAILED", False, "no reason given"),
        (Refusal(503, "server busy, please try again."), "BUSY", True, "lower ollama.max_concurrent"),
        (Refusal(500, "runner crashed"), "ENGINE_UNAVAILABLE", True, "runner crashed"),
        (Refusal(400, "prompt is too long"), "INVALID_INPUT", False, "prompt is too long"),
    ],
)
@pytest.mark.parametrize("inputs", [HELLO, {"messages": [{"role": "user", "content": "hello there"}]}])
def test_what_goes_wrong_is_an_error_and_never_a_short_answer(
    fake: FakeOllama,
    engine: OllamaEngine,
    model: Any,
    inputs: dict[str, Any],
    fault: Fault,
    code: str,
    is_retryable: bool,
    said: str,
) -> None:
    for path in (GENERATE, CHAT):
        fake.fail(path, fault)
    with pytest.raises(InferenceError) as caught:
        engine.infer(model, inputs, {})
    assert (caught.value.code, caught.value.retryable) == (code, is_retryable)
    assert said in caught.value.message
    assert engine.infer(model, inputs, {})["generated_text"] == "You said: hello there"


@pytest.mark.parametrize("inputs", [HELLO, {"messages": [{"role": "user", "content": "hello there"}]}])
@pytest.mark.parametrize("token", [" the", "\n", "的"])
def test_an_answer_that_repeats_itself_until_the_server_ends_it_is_a_success(
    fake: FakeOllama, engine: OllamaEngine, model: Any, inputs: dict[str, Any], token: str
) -> None:
    for path in (GENERATE, CHAT):
        fake.fail(path, faults.repeating(token))
    heard: list[str] = []
    result = engine.submit(model, inputs, {}, heard.append).result(30)
    assert result["finish_reason"] == "repetition"
    assert result["generated_text"] == "You said: hello there" + 31 * token == "".join(heard)
    assert result["completion_tokens"] == 4 + 31


@pytest.mark.parametrize("fault", [faults.repeating(" the", 20), faults.repeating(" the"), faults.repeating("\n", 29)])
def test_a_stream_that_ends_early_for_another_reason_stays_a_failure(
    fake: FakeOllama, engine: OllamaEngine, model: Any, fault: Any
) -> None:
    # Blanks do not count, and neither does what came before another token.
    fake.fail(GENERATE, lambda lines: [*fault(lines), *([lines[1]] if len(fault(lines)) > 34 else [])])
    with pytest.raises(EngineUnavailable, match="without `done`"):
        engine.infer(model, HELLO, {})


def test_a_repeating_answer_whose_connection_breaks_is_not_taken_for_whole(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    repeating = faults.repeating(" the")
    assert callable(repeating)
    fake.fail(GENERATE, lambda lines: [*repeating(lines), faults.DROP])
    with pytest.raises(EngineUnavailable, match="broke"):
        engine.infer(model, HELLO, {})


def test_a_server_that_is_away_is_named_with_the_setting() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with engine_for(url) as engine:
            with pytest.raises(EngineUnavailable, match=rf"no Ollama server answers at {url}: .*ollama\.api_base"):
                engine.load_model("echo")
            assert engine.health()["status"] == "error"
            assert "ollama.api_base" in engine.health()["error"]


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(fake: FakeOllama) -> None:
    model = OllamaModel("echo")
    with engine_for(fake.url, timeout_s=0.3) as engine:
        fake.fail(GENERATE, faults.silent, faults.stalled)
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.3 s"):
                engine.infer(model, HELLO, {})
        assert wait_until(lambda: fake.disconnects == 2)


def test_a_slow_first_byte_is_waited_for(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    fake.fail(GENERATE, faults.silent)
    future = engine.submit(model, HELLO, {})
    assert wait_until(lambda: fake.running == 1)
    assert not future.done()
    fake.release()
    assert future.result(20)["generated_text"] == "You said: hello there"
