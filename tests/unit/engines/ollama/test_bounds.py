"""What a request may ask of an Ollama server is bounded, and a prompt beyond its context is never cut in silence."""

from __future__ import annotations

import os
from typing import Any

import pytest

from engines.config.settings import OllamaSettings
from engines.ollama.engine import UNTOLD_CONTEXT, OllamaEngine
from engines.ollama.request import is_valid_name
from handlers.errors import InvalidInput, InvalidOption, ModelLoadFailed
from handlers.options.options import options_of, validate_options
from tests.unit.engines.ollama.engines import GENERATE, engine_for
from tests.unit.engines.ollama.fake_models import FakeModel
from tests.unit.engines.ollama.fake_ollama import FakeOllama

CORES = len(os.sched_getaffinity(0))
LONG = {"inputs": "word " * 5000}


def checked(settings: OllamaSettings, **options: Any) -> dict[str, Any]:
    return validate_options(
        options, task_options=options_of("text-generation"), engine="ollama", bounds=settings.bounds
    )


@pytest.mark.parametrize(
    ("api_base", "most"),
    [
        ("http://localhost:11434", CORES),
        ("http://127.0.0.1:11434", CORES),
        ("http://[::1]:11434", CORES),
        ("http://ollama.example:11434", 64),
    ],
)
def test_threads_are_bounded_by_the_cores_of_the_server_as_far_as_they_are_known(api_base: str, most: int) -> None:
    settings = OllamaSettings(api_base=api_base)
    assert checked(settings, num_thread=most) == {"num_thread": most}
    with pytest.raises(InvalidOption) as caught:
        checked(settings, num_thread=10_000)
    assert caught.value.message == (
        f"options.num_thread is 10000; ollama.max_threads allows at most {most}: ask for less, or have the operator "
        "raise that setting"
    )


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("num_thread", "max_threads"),
        ("num_batch", "max_batch"),
        ("draft_num_predict", "max_batch"),
        ("num_ctx", "max_context"),
        ("num_keep", "max_context"),
        ("repeat_last_n", "max_context"),
    ],
)
def test_each_setting_bounds_its_options(option: str, setting: str) -> None:
    settings = OllamaSettings.model_validate({setting: 7})
    assert checked(settings, **{option: 7}) == {option: 7}
    with pytest.raises(InvalidOption, match=rf"options\.{option} is 8; ollama\.{setting} allows at most 7"):
        checked(settings, **{option: 8})


def test_the_engine_tells_its_bounds(fake: FakeOllama, engine: OllamaEngine) -> None:
    assert engine.option_bounds == engine.config.bounds


def test_the_context_is_bounded_by_what_the_model_was_made_for(fake: FakeOllama) -> None:
    fake.models["small"] = FakeModel(context=512)
    with engine_for(fake.url) as engine:
        model = engine.load_model("small")
        assert model.most_context == 512
        with pytest.raises(InvalidOption, match=r"num_ctx is 513; ollama\.max_context allows at most 512"):
            engine.infer(model, {"inputs": "hi"}, {"num_ctx": 513})
    with engine_for(fake.url, max_context=4096) as engine:
        model = engine.load_model("small")  # the operator knows better
        engine.infer(model, {"inputs": "hi"}, {"num_ctx": 4096})
    assert [body["options"].get("num_ctx") for body in fake.bodies(GENERATE)] == [4096]


def test_a_model_that_tells_no_context_has_a_bound_all_the_same(fake: FakeOllama) -> None:
    fake.models["mute"] = FakeModel(context=0)
    with engine_for(fake.url) as engine:
        assert engine.load_model("mute").most_context == UNTOLD_CONTEXT


def test_a_prompt_beyond_the_context_is_refused_and_not_cut(fake: FakeOllama, engine: OllamaEngine, model: Any) -> None:
    for inputs in (LONG, {"messages": [{"role": "user", "content": LONG["inputs"]}]}):
        with pytest.raises(InvalidInput, match="exceeds the context length"):
            engine.infer(model, inputs, {})
        cut = engine.infer(model, inputs, {"truncate": True})
        assert (cut["prompt_tokens"], cut["generated_text"]) == (4096, "")


@pytest.mark.parametrize(("tag", "setting", "sent"), [(None, True, True), ("false", True, False)])
def test_shift_comes_from_the_tag_or_else_the_setting(
    fake: FakeOllama, tag: str | None, setting: bool, sent: bool
) -> None:
    with engine_for(fake.url, shift=setting) as engine:
        model = engine.load_model("echo", tags={} if tag is None else {"ollama_shift": tag})
        engine.infer(model, {"inputs": "hi"}, {})
    assert fake.bodies(GENERATE)[0]["shift"] is sent


def test_a_shift_tag_that_is_neither_true_nor_false_is_told(fake: FakeOllama, engine: OllamaEngine) -> None:
    with pytest.raises(ModelLoadFailed, match="tag ollama_shift of model echo is 'maybe'; it must be true or"):
        engine.load_model("echo", tags={"ollama_shift": "maybe"})


def test_a_name_that_ollama_does_not_take_blames_the_tag(fake: FakeOllama, engine: OllamaEngine) -> None:
    with pytest.raises(ModelLoadFailed, match="invalid model name; correct the model's tag ollama_model_name"):
        engine.load_model("m", tags={"ollama_model_name": "no such/model name!!"})
    assert not fake.pulls


@pytest.mark.parametrize(
    "name",
    ["llama3.2:1b", "smollm2", "library/x", "hf.co/org/repo-GGUF:Q4_K_M", "localhost:5000/a/b:c", "_a"],
)
def test_names_of_ollama_are_taken(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name", ["", "no such/model name!!", "a b", ":tag", "a:", "a/b/c/d/e", "-a", "x" * 81, "a\nb", "a?b"]
)
def test_names_that_ollama_refuses_are_refused(name: str) -> None:
    assert not is_valid_name(name)
