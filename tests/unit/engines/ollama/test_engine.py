"""The engine against a server that behaves, and against every way of misbehaving."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engines.base import PullProgress
from engines.ollama.engine import OllamaEngine
from engines.ollama.request import OllamaModel
from engines.ollama.server_models import short_name
from engines.registry import EngineRegistry
from engines.settings import EngineSettings, OllamaSettings
from handlers.errors import EngineUnavailable, InferenceError, InternalError, ModelLoadFailed
from tests.processes import wait_until
from tests.unit.engines.ollama import fake_ollama as faults
from tests.unit.engines.ollama.fake_ollama import FakeModel, FakeOllama, Fault, Refusal

GENERATE, CHAT, PULL = "/api/generate", "/api/chat", "/api/pull"
HELLO = {"inputs": "hello there"}


@contextmanager
def engine_for(url: str, **settings: Any) -> Iterator[OllamaEngine]:
    engine = OllamaEngine(OllamaSettings(**{"api_base": url, "timeout_s": 30, **settings}))
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def model(engine: OllamaEngine) -> Any:
    return engine.load_model("echo", task="text-generation")


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


def test_a_batch_keeps_its_order_and_a_bad_one_costs_its_neighbours_nothing(
    engine: OllamaEngine, model: Any
) -> None:
    inputs = [{"inputs": "one"}, {"inputs": "two"}, {"inputs": "three"}]
    first, second, third = engine.infer_batch(model, inputs, [{}, {"think": True}, {}])
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert [first["generated_text"], third["generated_text"]] == ["You said: one", "You said: three"]
    assert isinstance(second, InferenceError)
    assert (second.code, second.retryable) == ("INVALID_OPTION", False)


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


def test_a_server_that_is_away_is_named_with_the_setting() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with engine_for(url) as engine:
            with pytest.raises(
                EngineUnavailable, match=rf"no Ollama server answers at {url}: .*ollama\.api_base"
            ):
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


@pytest.mark.parametrize("when", [faults.silent, faults.stalled])
def test_cancelling_the_future_closes_the_connection_and_stops_the_work(
    fake: FakeOllama, engine: OllamaEngine, model: Any, when: Fault
) -> None:
    fake.fail(GENERATE, when)
    future = engine.submit(model, HELLO, {})
    assert wait_until(lambda: fake.running == 1)
    assert fake.disconnects == 0
    assert future.cancel()
    assert wait_until(lambda: fake.disconnects == 1)
    assert wait_until(lambda: fake.running == 0)
    assert engine.infer(model, HELLO, {})["generated_text"] == "You said: hello there"


def test_a_request_cancelled_in_the_queue_is_never_sent(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    fake.fail(GENERATE, *[faults.silent] * 3)
    running = [engine.submit(model, HELLO, {}) for _ in range(3)]
    assert wait_until(lambda: fake.running == 3)
    queued = engine.submit(model, {"inputs": "never"}, {})
    assert queued.cancel()
    fake.release()
    for future in running:
        future.result(20)
    engine.infer(model, HELLO, {})
    assert all(body["prompt"] != "never" for body in fake.bodies(GENERATE))


def test_no_more_requests_are_under_way_than_the_setting_says(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    fake.fail(GENERATE, *[faults.silent] * 10)
    futures = [engine.submit(model, {"inputs": str(number)}, {}) for number in range(10)]
    assert wait_until(lambda: fake.running == 3)
    fake.release()
    answers = [future.result(20)["generated_text"] for future in futures]
    assert answers == [f"You said: {number}" for number in range(10)]
    assert fake.most_running == 3


def test_the_most_urgent_of_those_who_wait_is_sent_next(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    fake.fail(GENERATE, *[faults.silent] * 3)
    running = [engine.submit(model, HELLO, {}) for _ in range(3)]
    assert wait_until(lambda: fake.running == 3)
    waiting = [
        engine.submit(model, {"inputs": text}, {}, urgency=urgency)
        for text, urgency in [
            ("last", (-1, math.inf)),
            ("third", (-5, math.inf)),
            ("second", (-5, 10.0)),
            ("first", (-9, math.inf)),
        ]
    ]
    running[0].cancel()  # one slot, so that the order shows
    waiting[3].result(20)
    fake.release()
    for future in (*running[1:], *waiting):
        future.result(20)
    assert fake.bodies(GENERATE)[3]["prompt"] == "first"


def test_a_listener_that_fails_costs_nobody_the_answer(engine: OllamaEngine, model: Any) -> None:
    heard: list[str] = []

    def listen(piece: str) -> None:
        heard.append(piece)
        raise ValueError("a bug of the listener")

    result = engine.submit(model, HELLO, {}, listen).result(20)
    assert result["generated_text"] == "You said: hello there"
    assert heard == ["You"]


def test_16_threads_that_ask_for_a_missing_model_pull_it_once(fake: FakeOllama, engine: OllamaEngine) -> None:
    fake.library["new"] = FakeModel(size=1000)
    fake.fail(PULL, faults.stalled)
    heard: list[PullProgress] = []
    engine.on_progress = heard.append

    def ask(number: int) -> str:
        model = engine.load_model("mine", task="text-generation", tags={"ollama_model_name": "new"})
        answer: str = engine.infer(model, {"inputs": str(number)}, {})["generated_text"]
        return answer

    with ThreadPoolExecutor(16) as threads:
        answers = [threads.submit(ask, number) for number in range(16)]
        assert wait_until(lambda: fake.running == 1)
        fake.release()
        assert [answer.result(20) for answer in answers] == [f"You said: {number}" for number in range(16)]
    assert fake.pulls == {"new": 1}
    assert [one.status for one in heard] == [
        "pulling manifest",
        "pulling 0123456789ab",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert (heard[-1].model, heard[-1].completed_bytes, heard[-1].total_bytes) == ("new", 1000, 1000)


@pytest.mark.parametrize("names", [("new", "new:latest"), ("new:latest", "new")])
def test_a_name_with_and_without_its_default_tag_is_one_model(
    fake: FakeOllama, engine: OllamaEngine, names: tuple[str, str]
) -> None:
    fake.library["new"] = FakeModel()
    fake.fail(PULL, faults.stalled)
    with ThreadPoolExecutor(2) as threads:
        loads = [threads.submit(engine.load_model, name, task="text-generation") for name in names]
        assert wait_until(lambda: fake.running == 1 and len(fake.bodies("/api/show")) == 1)
        fake.release()
        first, second = (load.result(20) for load in loads)
    assert fake.pulls == {"new": 1}
    assert first.name == second.name == "new"
    engine.infer(first, HELLO, {})
    assert not engine.unload_model(first), "the other one is the same model there"
    assert engine.unload_model(second)
    assert fake.loaded == []


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("llama3", "llama3"),
        ("llama3:latest", "llama3"),
        ("llama3:8b", "llama3:8b"),
        ("library/llama3:latest", "llama3"),
        ("registry.ollama.ai/library/llama3", "llama3"),
        ("registry.ollama.ai/org/llama3:latest", "org/llama3"),
        ("localhost:5000/library/llama3:latest", "localhost:5000/library/llama3"),
        ("hf.co/org/name:Q4_K_M", "hf.co/org/name:Q4_K_M"),
    ],
)
def test_what_a_name_leaves_open_is_what_ollama_fills_in(name: str, short: str) -> None:
    assert short_name(name) == short


def test_a_model_that_is_removed_meanwhile_is_pulled_again(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    fake.library["echo"] = fake.models.pop("echo")
    assert engine.infer(model, HELLO, {})["generated_text"] == "You said: hello there"
    assert fake.pulls == {"echo": 1}


def test_without_auto_pull_a_missing_model_is_an_error_with_its_cure(fake: FakeOllama) -> None:
    fake.library["new"] = FakeModel()
    with engine_for(fake.url, auto_pull=False) as engine:
        with pytest.raises(ModelLoadFailed, match=r"run `ollama pull new`.*it has echo") as caught:
            engine.load_model("new")
        assert not caught.value.retryable
    assert not fake.pulls


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (
            faults.error_line("dial tcp: no such host"),
            "ENGINE_UNAVAILABLE",
            "could not pull model new: dial tcp",
        ),
        (faults.without_end, "ENGINE_UNAVAILABLE", "it ended at 'writing manifest' without success"),
        (faults.dropped, "ENGINE_UNAVAILABLE", "broke: RemoteProtocolError"),
    ],
)
def test_a_pull_that_fails_is_told_and_the_next_one_may_work(
    fake: FakeOllama, engine: OllamaEngine, fault: Fault, code: str, said: str
) -> None:
    fake.library["new"] = FakeModel()
    heard: list[PullProgress] = []
    engine.on_progress = heard.append
    fake.fail(PULL, fault)
    # The fake, unlike a real server, holds the model after a failed pull unless it is taken away.
    with pytest.raises(InferenceError) as caught:
        engine.load_model("new")
    assert caught.value.code == code
    assert said in caught.value.message
    assert heard[-1].status == "failed"
    fake.models.pop("new", None)
    engine.load_model("new")
    assert fake.pulls == {"new": 2}


def test_a_model_that_no_library_has_is_an_error_for_good(fake: FakeOllama, engine: OllamaEngine) -> None:
    with pytest.raises(ModelLoadFailed, match="could not pull model nowhere: pull model manifest") as caught:
        engine.load_model("nowhere")
    assert "ollama_model_name" in caught.value.message


@pytest.mark.parametrize(
    ("capabilities", "task", "missing"),
    [
        (("completion", "tools"), "vlm", "vision"),
        (("embedding",), "text-generation", "completion"),
        (("completion",), "text-generation", None),
        (("completion", "vision"), "vlm", None),
        (None, "vlm", None),
    ],
)
def test_a_model_that_cannot_do_the_task_is_refused(
    fake: FakeOllama,
    engine: OllamaEngine,
    capabilities: tuple[str, ...] | None,
    task: str,
    missing: str | None,
) -> None:
    fake.models["some"] = FakeModel(capabilities)
    if missing is None:
        assert engine.load_model("some", task=task).name == "some"
    else:
        with pytest.raises(ModelLoadFailed, match=f"model some cannot do task {task}: .*, not of {missing}"):
            engine.load_model("some", task=task)


def test_the_penalty_of_a_modelfile_is_kept(fake: FakeOllama, engine: OllamaEngine) -> None:
    fake.models["own"] = FakeModel(parameters="stop    X\nrepeat_penalty    1.25")
    engine.infer(engine.load_model("own"), HELLO, {})
    assert fake.bodies(GENERATE)[-1]["options"] == {"repeat_penalty": 1.25}


def test_unloading_tells_the_server_once_nobody_of_ours_uses_the_model(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    other = engine.load_model("champion", tags={"ollama_model_name": "echo"})
    engine.infer(model, HELLO, {})
    assert fake.loaded == ["echo"]
    assert engine.unload_model(model) is False
    assert fake.loaded == ["echo"]
    assert engine.unload_model(other) is True
    assert fake.loaded == []


def test_unloading_never_raises(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    del fake.models["echo"]
    assert engine.unload_model(model) is False
    closed = OllamaEngine(OllamaSettings(api_base=fake.url))
    closed.close()
    assert closed.unload_model(model) is False


def test_health_tells_the_version_and_what_is_loaded(
    fake: FakeOllama, engine: OllamaEngine, model: Any
) -> None:
    engine.infer(model, HELLO, {})
    assert engine.health() == {"status": "ok", "server": fake.url, "version": "0.33.0", "loaded": ["echo"]}


def test_health_does_not_wait_for_a_server_that_hangs(
    fake: FakeOllama, engine: OllamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.ollama.engine.HEALTH_TIMEOUT_S", 0.1)
    fake.fail("/api/version", faults.silent)
    assert engine.health()["status"] == "error"
    fake.release()


def test_closing_fails_what_is_under_way_as_retryable_and_ends_the_thread(fake: FakeOllama) -> None:
    others = loop_threads()
    with engine_for(fake.url, max_concurrent=1) as engine:
        model = engine.load_model("echo")
        fake.fail(GENERATE, faults.silent)
        futures = [engine.submit(model, HELLO, {}) for _ in range(2)]
        assert wait_until(lambda: fake.running == 1)
        engine.close()
        for future in futures:
            with pytest.raises(EngineUnavailable, match="was closed meanwhile"):
                future.result(20)
        with pytest.raises(EngineUnavailable, match="is closed"):
            engine.submit(model, HELLO, {})
        assert wait_until(lambda: fake.disconnects == 1)
    assert wait_until(lambda: not loop_threads(but=others))


def test_dropping_the_engine_ends_its_thread(fake: FakeOllama) -> None:
    import gc

    others = loop_threads()
    engine = OllamaEngine(OllamaSettings(api_base=fake.url))
    engine.load_model("echo")
    assert loop_threads(but=others)
    del engine
    gc.collect()
    assert wait_until(lambda: not loop_threads(but=others))


def test_a_process_that_forgets_to_close_ends_quietly(fake: FakeOllama) -> None:
    script = (
        "import sys\n"
        "from engines.ollama.engine import OllamaEngine\n"
        "from engines.settings import OllamaSettings\n"
        "engine = OllamaEngine(OllamaSettings(api_base=sys.argv[1]))\n"
        "model = engine.load_model('echo')\n"
        "print(engine.infer(model, {'inputs': 'bye'}, {})['generated_text'])\n"
        "engine.submit(model, {'inputs': 'never answered'}, {})\n"
    )
    fake.fail(GENERATE, faults.byte_by_byte, faults.stalled)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, fake.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[4],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said: bye\n", "")


def loop_threads(*, but: Collection[threading.Thread] = ()) -> list[threading.Thread]:
    """Return the threads of engines; other tests may have left some, which are given as `but`."""
    return [t for t in threading.enumerate() if t.name == "ollama loop" and t not in but]


def test_a_fault_of_ours_is_an_internal_error(
    engine: OllamaEngine, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr("engines.ollama.engine.build", broken)
    with pytest.raises(InternalError):
        engine.infer(model, HELLO, {})


def test_cancelling_at_once_leaves_nothing_behind(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    futures = [engine.submit(model, HELLO, {}) for _ in range(50)]
    cancelled = [future.cancel() for future in futures]
    assert any(cancelled)
    for future, was_cancelled in zip(futures, cancelled, strict=True):
        if was_cancelled:
            with pytest.raises(CancelledError):
                future.result(20)
    assert engine.infer(model, HELLO, {})["generated_text"] == "You said: hello there"
    assert wait_until(lambda: fake.running == 0)


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
