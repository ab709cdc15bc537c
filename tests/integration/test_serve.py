"""`inferstream serve` as a process of its own: real MLflow, real weights, no broker, asked with curl and httpx."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml

from deploy.local import LocalStack
from streams.messages import decode_result
from tests.integration.worker_process import PATIENCE_S
from tests.recordings import Recording

SMOLLM2 = {
    "task": "text-generation",
    "engine": "transformers",
    "model_name": "smollm2-135m-instruct",
    "data": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "options": {"max_new_tokens": 12, "do_sample": False},
}


class ServeProcess:
    """`inferstream serve` on a free port; killed at the end of the `with` block if it still runs."""

    def __init__(self, directory: Path, sections: dict[str, dict[str, Any]], name: str = "serve") -> None:
        self.config_path = directory / f"{name}.yaml"
        self.config_path.write_text(yaml.safe_dump(sections))
        self.output_path, self.log_path = directory / f"{name}.out", directory / f"{name}.log"

    def __enter__(self) -> Self:
        arguments = ["--config", str(self.config_path), "serve", "--port", "0"]
        with self.output_path.open("wb") as output, self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "streams.cli", *arguments],
                env={name: value for name, value in os.environ.items() if "INFERSTREAM" not in name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        self.url = self._wait_for(r"Listening on (\S+);")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def post(self, request: dict[str, Any], **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/inference/infer", json=request, timeout=PATIENCE_S, trust_env=False, **more)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE_S, trust_env=False)

    def stopped(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not stop:\n{self.log[-4000:]}") from None

    def _wait_for(self, pattern: str) -> str:
        patience = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.output)) is None:
            assert self.process.poll() is None, f"it died:\n{self.log[-4000:]}"
            assert time.monotonic() < patience, f"it never said {pattern}:\n{self.log[-4000:]}"
            time.sleep(0.05)
        return found[1]


def sections_of(stack: LocalStack, directory: Path, **more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings that reach MLflow and S3, and nothing of Kafka."""
    known = stack.settings()
    return {
        "mlflow": known["mlflow"],
        "s3": known["s3"],
        "cache": {"directory": str(directory / "model-files")},
        "logging": {"format": "json"},
        **more,
    }


@pytest.fixture(scope="module")
def server(
    local_stack: LocalStack, real_models: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeProcess]:
    """A serving process for tests that leave it as it is."""
    directory = tmp_path_factory.mktemp("serve")
    with ServeProcess(directory, sections_of(local_stack, directory)) as process:
        yield process
        process.process.send_signal(signal.SIGTERM)
        assert process.stopped() == 0, process.log[-4000:]


@pytest.fixture
def sleepy_server(local_stack: LocalStack, sleepy_model: str, tmp_path: Path) -> Iterator[ServeProcess]:
    """A serving process of the test's own, with the engine whose requests say how long they take."""
    worker = {"plugins": ["tests.plugins.sleepy"]}
    with ServeProcess(tmp_path, sections_of(local_stack, tmp_path, worker=worker)) as process:
        yield process


def sleepy(model: str, **data: Any) -> dict[str, Any]:
    return {"task": "sleepy", "engine": "sleepy", "model_name": model, "data": {"value": 1, **data}}


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--max-time", str(int(PATIENCE_S)), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_text_is_generated_by_real_weights(server: ServeProcess) -> None:
    response = server.post(SMOLLM2)
    assert response.status_code == 200, response.text
    result = decode_result(response.content)
    assert result.result is not None
    assert "Paris" in result.result["generated_text"]
    assert result.model_version


def test_the_line_it_prints_works_as_it_stands(server: ServeProcess) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = [line.strip() for line in server.output.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 2
    for line in lines:
        shown = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
        )
        answer = json.loads(shown.stdout)
        assert answer.get("success", True), answer
        assert answer.get("tasks") or answer["result"]["generated_text"]


def test_a_recording_is_uploaded_with_curl_and_transcribed(
    server: ServeProcess, librivox_clips: tuple[Recording, ...]
) -> None:
    clip = librivox_clips[0]
    fields = {"task": "asr", "engine": "transformers", "model_name": "whisper-tiny.en"}
    shown = curl(
        *(part for name, value in fields.items() for part in ("-F", f"{name}={value}")),
        "-F",
        f"audio=@{clip.path}",
        f"{server.url}/inference/infer",
    )
    answer = json.loads(shown.stdout)
    assert answer["success"], answer
    said = set(re.findall(r"[a-z]+", answer["result"]["text"].lower()))
    expected = set(re.findall(r"[a-z]+", clip.transcript.lower()))
    assert len(said & expected) / len(expected) > 0.8


def test_events_end_with_the_result_that_one_json_holds(server: ServeProcess) -> None:
    whole = server.post(SMOLLM2).json()
    shown = curl("-N", "-H", "Accept: text/event-stream", "-d", json.dumps(SMOLLM2), f"{server.url}/inference/infer")
    *tokens, last = [block for block in shown.stdout.split("\n\n") if block and not block.startswith(":")]
    kind, data = last.splitlines()
    assert kind == "event: result"
    streamed = json.loads(data.removeprefix("data: "))
    assert streamed["result"]["generated_text"] == whole["result"]["generated_text"]
    assert {token.splitlines()[0] for token in tokens} == {"event: token"}
    pieces = [json.loads(token.splitlines()[1].removeprefix("data: "))["text"] for token in tokens]
    assert len(pieces) > 1, "the answer came in one piece"
    assert "".join(pieces) == streamed["result"]["generated_text"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model_name": "nobody"}, 404, "UNKNOWN_MODEL"),
        ({"task": "asr", "options": {}}, 400, "MODEL_MISMATCH"),
        ({"options": {"max_new_token": 3}}, 400, "INVALID_OPTION"),
        ({"deadline": "2020-01-01T00:00:00Z"}, 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_failures_have_their_status(server: ServeProcess, changes: dict[str, Any], status: int, code: str) -> None:
    response = server.post({**SMOLLM2, **changes})
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code


def test_the_other_routes_answer(server: ServeProcess) -> None:
    assert server.get("/healthz").json() == {"status": "ok"}
    ready = server.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert ready.json()["components"]["mlflow"]["status"] == "ok"
    tasks = {row["task"]: row for row in server.get("/inference/tasks").json()["tasks"]}
    assert "transformers" in tasks["asr"]["engines"]
    assert tasks["asr"]["media_fields"] == ["audio"]
    names = {row["model_name"] for row in server.get("/inference/models").json()["models"]}
    assert {"smollm2-135m-instruct", "whisper-tiny.en"} <= names
    assert server.get("/inference/stats").json()["total_inferences"] >= 0
    assert "inferstream_http_requests" in server.get("/metrics").text
    assert server.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_a_caller_who_leaves_harms_nobody(sleepy_server: ServeProcess, sleepy_model: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{sleepy_server.url}/inference/infer",
            json=sleepy(sleepy_model, seconds=1.0),
            timeout=0.3,
            trust_env=False,
        )
    assert sleepy_server.post(sleepy(sleepy_model)).json()["success"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end_and_exits_with_0(
    sleepy_server: ServeProcess, sleepy_model: str, number: signal.Signals
) -> None:
    assert sleepy_server.post(sleepy(sleepy_model)).json()["success"]
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, httpx; r = httpx.post(sys.argv[1], content=sys.argv[2], timeout=60, trust_env=False);"
            "print(r.status_code, r.json()['success'])",
            f"{sleepy_server.url}/inference/infer",
            json.dumps(sleepy(sleepy_model, seconds=2.0)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        patience = time.monotonic() + PATIENCE_S
        while "inferstream_http_requests_in_flight 1.0" not in sleepy_server.get("/metrics").text:
            assert time.monotonic() < patience
        sleepy_server.process.send_signal(number)
        assert sleepy_server.stopped() == 0, sleepy_server.log[-4000:]
        answer, _ = caller.communicate(timeout=PATIENCE_S)
    assert answer.split() == ["200", "True"]


def test_without_mlflow_it_starts_and_says_what_is_away(local_stack: LocalStack, tmp_path: Path) -> None:
    sections = sections_of(local_stack, tmp_path)
    sections["mlflow"] = {"tracking_uri": "http://127.0.0.1:9", "timeout_s": 1}
    with ServeProcess(tmp_path, sections) as process:
        assert process.get("/healthz").status_code == 200
        response = process.post(SMOLLM2)
        assert response.status_code == 503, response.text
        assert response.json()["error"]["code"] == "REGISTRY_UNAVAILABLE"
        assert "Retry-After" in response.headers
        assert process.get("/readyz").json()["status"] == "degraded"
