"""Text generation by a tiny random T5: what the library's own generate writes, alone and in company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engines.transformers.engine import TransformersEngine
from engines.transformers.generation.runner import Seq2SeqRunner
from handlers.errors import InferenceError, InvalidInput, InvalidOption
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import CONTEXT, save_bart, save_t5

ENGINE = TransformersEngine(on_this_machine())
PROMPTS = ["a", "b c d", "h e l l o w o r l d", "x y", "q"]


@pytest.fixture(scope="module", params=[save_t5, save_bart], ids=["t5", "bart"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """T5 knows positions by their distance, BART by their number: padding on the wrong side shows."""
    folder = request.param(tmp_path_factory.mktemp("seq2seq"))
    return ENGINE.load_model("tiny", task="text-generation", path=folder)


def answer(runner: Any, prompt: str, **options: Any) -> dict[str, Any]:
    return ENGINE.infer(runner, {"inputs": prompt}, options)


def refusal(runner: Any, inputs: dict[str, Any], **options: Any) -> InferenceError:
    [outcome] = ENGINE.infer_batch(runner, [inputs], [options])
    assert isinstance(outcome, InferenceError)
    return outcome


def own_text(runner: Any, prompt: str, **more: Any) -> str:
    """Return what the library's own generate writes, decoded as its pipelines do."""
    encoded = runner.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    encoded = encoded.to(runner.model.device)
    with torch.inference_mode():
        written = runner.model.generate(**encoded, **more)
    text: str = runner.tokenizer.decode(written[0], skip_special_tokens=True)
    return text


def test_a_model_of_this_kind_is_run_by_its_runner(runner: Any) -> None:
    assert isinstance(runner, Seq2SeqRunner)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_those_of_the_librarys_own_generate(runner: Any, prompt: str) -> None:
    result = answer(runner, prompt, max_new_tokens=15)
    assert result["generated_text"] == own_text(runner, prompt, max_new_tokens=15)
    assert result["prompt_tokens"] == len(prompt.split())
    assert 0 < result["completion_tokens"] <= 15


def test_what_is_written_depends_on_what_is_read(runner: Any) -> None:
    texts = [answer(runner, prompt, max_new_tokens=15)["generated_text"] for prompt in PROMPTS]
    assert len(set(texts)) == len(PROMPTS)
    assert max(len(set(text.split())) for text in texts) > 3


def test_a_batch_gives_each_row_what_it_gets_alone(runner: Any) -> None:
    options: list[dict[str, Any]] = [
        {"max_new_tokens": 3},
        {"max_new_tokens": 15},
        {"max_new_tokens": 8, "temperature": 1.5, "seed": 3},
        {"max_new_tokens": 12, "repetition_penalty": 1.5},
        {"max_new_tokens": 6, "num_beams": 2},
    ]
    together = ENGINE.infer_batch(runner, [{"inputs": one} for one in PROMPTS], options)
    assert together == [answer(runner, one, **its) for one, its in zip(PROMPTS, options, strict=True)]


def test_a_repetition_penalty_is_the_librarys(runner: Any) -> None:
    for prompt in PROMPTS:
        expected = own_text(runner, prompt, max_new_tokens=12, repetition_penalty=1.4)
        assert answer(runner, prompt, max_new_tokens=12, repetition_penalty=1.4)["generated_text"] == expected


def test_beam_search_is_the_librarys(runner: Any) -> None:
    options = {"max_new_tokens": 10, "num_beams": 3, "length_penalty": 0.5}
    for prompt in PROMPTS[:3]:
        assert answer(runner, prompt, **options)["generated_text"] == own_text(runner, prompt, **options)


def test_max_length_is_the_librarys_and_counts_the_start_token(runner: Any) -> None:
    result = answer(runner, PROMPTS[2], max_length=6)
    assert result["generated_text"] == own_text(runner, PROMPTS[2], max_length=6)
    assert result["completion_tokens"] <= 5
    assert isinstance(refusal(runner, {"inputs": "a"}, max_length=1), InvalidOption)


def test_a_stop_string_ends_the_answer_and_is_cut_out(runner: Any) -> None:
    words = answer(runner, "b c d", max_new_tokens=10)["generated_text"].split()
    stop = words[3]
    stopped = answer(runner, "b c d", max_new_tokens=10, stop=[stop])
    assert stopped["generated_text"].split() == words[: words.index(stop)]
    assert stopped["finish_reason"] == "stop"


def test_messages_without_a_chat_template_are_refused(runner: Any) -> None:
    error = refusal(runner, {"messages": [{"role": "user", "content": "a"}]})
    assert isinstance(error, InvalidInput)
    assert error.message == "data.messages needs a chat template, which model tiny lacks; send data.inputs"


def test_a_prompt_longer_than_the_encoder_reads_gives_both_numbers(runner: Any) -> None:
    if runner.context is None:
        assert answer(runner, "a " * 300, max_new_tokens=2)["prompt_tokens"] == 300
        return
    assert answer(runner, "a " * CONTEXT, max_new_tokens=1000)["completion_tokens"] < CONTEXT
    error = refusal(runner, {"inputs": "a " * (CONTEXT + 1)})
    assert isinstance(error, InvalidInput)
    assert f"the prompt has {CONTEXT + 1} tokens; model tiny reads {CONTEXT}" in error.message
