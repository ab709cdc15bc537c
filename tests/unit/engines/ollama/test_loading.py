"""Models that the server holds, pulls, lacks or lets go of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engines.base import PullProgress
from engines.cache.cached_model import Loaded
from engines.cache.loader import ModelLoading
from engines.cache.memory_budget import MemoryBudget
from engines.cache.model_cache import MakeRoom, ModelCache
from engines.config.settings import OllamaSettings
from engines.models.resolved_model import ResolvedModel
from engines.ollama.engine import OllamaEngine
from engines.ollama.request import short_name
from handlers.errors import InferenceError, ModelLoadFailed
from tests.processes import wait_until
from tests.unit.engines.ollama import fake_faults as faults
from tests.unit.engines.ollama.engines import HELLO, PULL, engine_for
from tests.unit.engines.ollama.fake_faults import Fault
from tests.unit.engines.ollama.fake_models import FakeModel
from tests.unit.engines.ollama.fake_ollama import FakeOllama
from tests.unit.engines.parts import KnownModels


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


def test_a_model_that_is_removed_meanwhile_is_pulled_again(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
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
    with pytest.raises(InferenceError) as caught:
        engine.load_model("new")
    assert caught.value.code == code
    assert said in caught.value.message
    assert heard[-1].status == "failed"
    assert "new" not in fake.models
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


def test_pulls_that_hang_make_no_model_in_memory_leave(fake: FakeOllama, engine: OllamaEngine, tmp_path: Path) -> None:
    cache = ModelCache(max_models=4, budget=MemoryBudget(100))
    unloaded: list[str] = []

    def load(make_room: MakeRoom) -> Loaded:
        make_room(10, "cpu")
        return Loaded("weights", 10)

    cache.share("warm", load, unloaded.append).release()

    def pull(number: int) -> None:
        model = ResolvedModel(f"pulled-{number}", "1", "")
        loading = ModelLoading("ollama", "text-generation", model, engine, KnownModels(tmp_path, model).files)
        cache.share(loading.key, loading.load, loading.unload).release()

    fake.library |= {f"pulled-{number}": FakeModel() for number in range(6)}
    fake.fail(PULL, *[faults.stalled] * 6)
    with ThreadPoolExecutor(6) as threads:
        pulls = [threads.submit(pull, number) for number in range(6)]
        assert wait_until(lambda: fake.running == 6)
        cache.share("other", load, unloaded.append).release()
        assert unloaded == []
        fake.release()
        for one in pulls:
            one.result(20)
    assert len(cache.entries()) == 8, "the server holds six of them"
    assert unloaded == []
