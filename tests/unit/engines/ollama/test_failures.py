"""Every row of the table of statuses and errors has its error of ours, retryable or permanent."""

from __future__ import annotations

import httpx
import pytest

from engines.ollama.failures import Failures, ModelMissing, Refused
from engines.ollama.wire import BadLine

FAILURES = Failures("http://user:secret@ollama.example:11434/")


@pytest.mark.parametrize(
    ("status", "said", "code", "is_retryable"),
    [
        (400, "missing request body", "INVALID_INPUT", False),
        (400, '"m" does not support thinking', "INVALID_OPTION", False),
        (400, 'invalid think value: "most"', "INVALID_OPTION", False),
        (400, 'time: invalid duration "5 minutes"', "INVALID_OPTION", False),
        (400, '"m" does not support chat', "INVALID_INPUT", False),
        (400, "the prompt is longer than the context window", "INVALID_INPUT", False),
        (404, "model 'm' not found", "MODEL_LOAD_FAILED", False),
        (404, "whatever", "MODEL_LOAD_FAILED", False),
        (400, "the input length exceeds the context length", "INVALID_INPUT", False),
        (400, "invalid model name", "MODEL_LOAD_FAILED", False),
        (413, "", "INVALID_INPUT", False),
        (429, "slow down", "BUSY", True),
        (503, "server busy, please try again.  maximum pending requests exceeded", "BUSY", True),
        (499, "request canceled", "ENGINE_UNAVAILABLE", True),
        (401, "unauthorized", "ENGINE_UNAVAILABLE", True),
        (502, "<html>Bad Gateway</html>", "ENGINE_UNAVAILABLE", True),
        (307, "", "ENGINE_UNAVAILABLE", True),
        (500, 'option "num_ctx" must be of type integer', "INVALID_OPTION", False),
        (500, 'invalid format: "yaml"; expected "json" or a JSON Schema', "INVALID_OPTION", False),
        (500, "model requires more system memory (5.6 GiB) than is available (2 GiB)", "OUT_OF_MEMORY", True),
        (500, "llama runner process has terminated: cudaMalloc failed: out of memory", "OUT_OF_MEMORY", True),
        (500, "llama runner process has terminated: error loading model", "MODEL_LOAD_FAILED", False),
        (500, "unable to load model: /blobs/sha256-1", "MODEL_LOAD_FAILED", False),
        (500, "llama runner process has terminated: exit status 2", "ENGINE_UNAVAILABLE", True),
        (500, "an error was encountered while running the model: unexpected EOF", "ENGINE_UNAVAILABLE", True),
        (500, "timed out waiting for llama runner to start", "ENGINE_UNAVAILABLE", True),
        (500, "template: :1:2: bad", "INFERENCE_FAILED", False),
        (500, "invalid image index: 0", "INVALID_INPUT", False),
        (500, "invalid JSON schema in format", "INVALID_OPTION", False),
        (200, "llama runner process has terminated: signal: killed", "ENGINE_UNAVAILABLE", True),
        (200, "failed to decode batch", "INFERENCE_FAILED", False),
    ],
)
def test_a_refusal_has_its_code(status: int, said: str, code: str, is_retryable: bool) -> None:
    error = FAILURES.of_refusal(Refused(status, said), "m")
    assert (error.code, error.retryable) == (code, is_retryable)
    if said and status not in (404, 413):
        assert " ".join(said.split()) in error.message
    assert "secret" not in error.message


def test_a_prompt_beyond_the_context_comes_with_its_cures() -> None:
    error = FAILURES.of_refusal(Refused(400, "the input length exceeds the context length"), "m")
    assert "shorten the prompt, raise options.num_ctx, or give options.truncate true" in error.message


@pytest.mark.parametrize("model", ["gpt-oss:120b-cloud", "glm-4.6:cloud"])
@pytest.mark.parametrize("status", [401, 502])
def test_a_cloud_model_that_is_not_reached_blames_no_address(model: str, status: int) -> None:
    error = FAILURES.of_refusal(Refused(status, "no route"), model)
    assert (error.code, error.retryable) == ("ENGINE_UNAVAILABLE", True)
    assert "ollama signin" in error.message
    assert "api_base" not in error.message


def test_the_refused_option_is_named() -> None:
    for status, said, name in (
        (400, '"m" does not support thinking', "think"),
        (400, 'time: invalid duration "x"', "keep_alive"),
        (500, 'option "num_ctx" must be of type integer', "num_ctx"),
        (500, "invalid format: x", "format"),
    ):
        assert FAILURES.of_refusal(Refused(status, said), "m").message.startswith(f"options.{name} is refused")


def test_a_missing_model_comes_with_its_cure() -> None:
    error = FAILURES.of_refusal(Refused(404, "model 'm' not found"), "m")
    assert isinstance(error, ModelMissing)
    assert "run `ollama pull m`" in error.message
    assert "http://ollama.example:11434 has no model m" in error.message


def test_a_404_about_no_model_means_that_no_ollama_is_there() -> None:
    error = FAILURES.of_refusal(Refused(404, "404 page not found"), None)
    assert (error.code, error.retryable) == ("ENGINE_UNAVAILABLE", True)
    assert "check that ollama.api_base is the address of an Ollama server" in error.message


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (200, "pull model manifest: file does not exist", "MODEL_LOAD_FAILED"),
        (200, 'pull model manifest: 401: {"error":"Invalid username or password."}', "MODEL_LOAD_FAILED"),
        (200, "pull model manifest: 412: requires a newer version of Ollama", "MODEL_LOAD_FAILED"),
        (500, "invalid model name", "MODEL_LOAD_FAILED"),
        (400, "invalid model name", "MODEL_LOAD_FAILED"),
        (200, "dial tcp: lookup registry.ollama.ai: no such host", "ENGINE_UNAVAILABLE"),
        (200, "max retries exceeded: unexpected EOF", "ENGINE_UNAVAILABLE"),
        (200, "write /models/blob: no space left on device", "ENGINE_UNAVAILABLE"),
        (404, "404 page not found", "ENGINE_UNAVAILABLE"),
        (503, "busy", "BUSY"),
    ],
)
def test_a_pull_that_failed_has_its_code(status: int, said: str, code: str) -> None:
    assert FAILURES.of_pull(Refused(status, said), "m").code == code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            httpx.ConnectError("refused"),
            "no Ollama server answers at http://ollama.example:11434: refused; start it",
        ),
        (
            httpx.ConnectTimeout(""),
            "ConnectTimeout; start it with `ollama serve`, or correct ollama.api_base",
        ),
        (httpx.ReadTimeout(""), "did not answer within 7 s; it may be busy: try again"),
        (TimeoutError(), "or raise ollama.timeout_s"),
        (httpx.RemoteProtocolError("peer closed"), "broke: RemoteProtocolError: peer closed"),
        (BadLine("b'<html>'"), "does not answer as Ollama does: it sent b'<html>'"),
    ],
)
def test_a_broken_transport_is_retryable_and_says_what_to_do(
    error: httpx.HTTPError | TimeoutError | BadLine, said: str
) -> None:
    ours = FAILURES.of_transport(error, 7.0)
    assert (ours.code, ours.retryable) == ("ENGINE_UNAVAILABLE", True)
    assert said in ours.message
    assert "secret" not in ours.message
