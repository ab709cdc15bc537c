"""Text generation on a tiny random model: prompts, budgets, stops, sampling, batches."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from engines.transformers.engine import TransformersEngine
from engines.transformers.generation.runner import TextGenerationRunner
from engines.transformers.generation.sampling import Sampling, TokenPicker
from engines.transformers.generation.token_sequence import TokenSequence
from handlers.errors import InferenceError, InferenceFailed, InvalidInput, InvalidOption
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import CONTEXT, save_llama

ENGINE = TransformersEngine(on_this_machine())
PROMPTS = ["a", "b c d e f g", "x y z", "m n o p q r s t u v w", "k k k"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ENGINE.load_model("chat", task="text-generation", path=save_llama(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = save_llama(tmp_path_factory.mktemp("raw"), chat=False)
    return ENGINE.load_model("raw", task="text-generation", path=folder)


def answer(runner: TextGenerationRunner, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    return ENGINE.infer(runner, inputs, options)


def refusal(runner: TextGenerationRunner, inputs: dict[str, Any], **options: Any) -> InferenceError:
    [outcome] = ENGINE.infer_batch(runner, [inputs], [options])
    assert isinstance(outcome, InferenceError)
    return outcome


def own_generate(runner: TextGenerationRunner, prompt: list[int], **more: Any) -> list[int]:
    """Return the new tokens that the library's own generate gives for one prompt."""
    ids = torch.tensor([prompt], device=runner.model.device)
    found = runner.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **more)  # type: ignore[operator]
    return [token for token in found[0, len(prompt) :].tolist() if token != 2]


def test_inputs_become_one_user_message_where_there_is_a_chat_template(chat: Any) -> None:
    as_inputs = answer(chat, {"inputs": "a b"}, max_new_tokens=5)
    as_messages = answer(chat, {"messages": [{"role": "user", "content": "a b"}]}, max_new_tokens=5)
    assert as_inputs == as_messages
    assert as_inputs["prompt_tokens"] == 4  # USER a b ASSISTANT


def test_inputs_go_in_as_they_are_where_there_is_none(raw: Any) -> None:
    assert answer(raw, {"inputs": "a b"}, max_new_tokens=5)["prompt_tokens"] == 2


def test_messages_without_a_chat_template_are_refused_with_the_way_out(raw: Any) -> None:
    error = refusal(raw, {"messages": [{"role": "user", "content": "a"}]})
    assert isinstance(error, InvalidInput)
    assert error.message == ("data.messages needs a chat template, which model raw lacks; send data.inputs")


def test_messages_the_template_refuses_say_why(chat: Any) -> None:
    error = refusal(chat, {"messages": [{"role": "tool", "content": "a"}]})
    assert isinstance(error, InvalidInput)
    assert "no tools here" in error.message


@pytest.mark.logs_errors("inference_failed")
def test_a_batch_that_cannot_be_started_whole_leaves_no_row_running_for_nobody(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, Future[dict[str, Any]]]] = []

    def submit(sequence: TokenSequence) -> Future[dict[str, Any]]:
        text = raw.tokenizer.decode(sequence.prompt)
        if text == "c":
            raise RuntimeError("can't start new thread")
        started.append((text, sequence.future))
        if len(started) in (3, 5):  # alone in its batch by now
            sequence.future.set_result({})
        return sequence.future

    monkeypatch.setattr(raw.texts, "submit", submit)
    outcomes = ENGINE.infer_batch(raw, [{"inputs": text} for text in ("a", "b", "c")], [{}] * 3)
    assert [type(one) for one in outcomes] == [dict, dict, InferenceFailed]
    assert [(text, future.cancelled()) for text, future in started] == [
        ("a", True),
        ("b", True),
        ("a", False),
        ("b", True),
        ("b", False),
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_those_of_the_librarys_own_generate(raw: Any, prompt: str) -> None:
    tokens = raw.tokenizer(prompt)["input_ids"]
    expected = own_generate(raw, tokens, max_new_tokens=20)
    result = answer(raw, {"inputs": prompt}, max_new_tokens=20)
    assert result["generated_text"].split() == raw.tokenizer.convert_ids_to_tokens(expected)
    assert result["completion_tokens"] == len(expected)


@pytest.mark.parametrize(
    "configured",
    [
        {"suppress_tokens": [5, 6, 7, 8]},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[9], [4]]},
    ],
    ids=lambda configured: next(iter(configured)),
)
def test_what_a_models_configuration_forbids_is_left_out_as_generate_leaves_it_out(
    configured: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_llama(tmp_path, chat=False)
    GenerationConfig.from_pretrained(folder, **configured).save_pretrained(folder)
    runner: Any = ENGINE.load_model("choosy", task="text-generation", path=folder)
    plain: Any = ENGINE.load_model("plain", task="text-generation", path=save_llama(tmp_path / "plain", chat=False))
    told_apart = 0
    for prompt in PROMPTS:
        tokens = runner.tokenizer(prompt)["input_ids"]
        own = runner.tokenizer.decode(own_generate(runner, tokens, max_new_tokens=12), skip_special_tokens=True)
        assert answer(runner, {"inputs": prompt}, max_new_tokens=12)["generated_text"].strip() == own
        told_apart += own != answer(plain, {"inputs": prompt}, max_new_tokens=12)["generated_text"].strip()
    assert told_apart, "the configuration made no difference, so this test shows nothing"


def test_a_batch_gives_each_row_what_it_gets_alone(raw: Any) -> None:
    options = [{"max_new_tokens": budget} for budget in (3, 20, 7, 1, 12)]
    inputs = [{"inputs": prompt} for prompt in PROMPTS]
    together = ENGINE.infer_batch(raw, inputs, options)
    assert together == [answer(raw, one, **its) for one, its in zip(inputs, options, strict=True)]
    assert {len(str(one)) for one in together} != {1}


def test_a_repetition_penalty_is_the_librarys_and_ignores_the_padding(raw: Any) -> None:
    inputs = [{"inputs": prompt} for prompt in PROMPTS]
    options = [{"max_new_tokens": 15, "repetition_penalty": 1.3}] * len(PROMPTS)
    for prompt, outcome in zip(PROMPTS, ENGINE.infer_batch(raw, inputs, options), strict=True):
        tokens = raw.tokenizer(prompt)["input_ids"]
        expected = own_generate(raw, tokens, max_new_tokens=15, repetition_penalty=1.3)
        assert isinstance(outcome, dict)
        assert outcome["generated_text"].split() == raw.tokenizer.convert_ids_to_tokens(expected)


def test_beam_search_is_the_librarys(raw: Any) -> None:
    tokens = raw.tokenizer(PROMPTS[1])["input_ids"]
    expected = own_generate(raw, tokens, max_new_tokens=10, num_beams=3, length_penalty=0.5)
    result = answer(raw, {"inputs": PROMPTS[1]}, max_new_tokens=10, num_beams=3, length_penalty=0.5)
    assert result["generated_text"].split() == raw.tokenizer.convert_ids_to_tokens(expected)


def test_beam_search_and_sampling_together_are_refused(raw: Any) -> None:
    assert isinstance(refusal(raw, {"inputs": "a"}, num_beams=2, temperature=1.0), InvalidOption)


def test_beams_whose_caches_would_not_fit_are_refused_with_the_setting(tmp_path: Path) -> None:
    engine = TransformersEngine(on_this_machine(kv_cache_bytes=1024**2))
    runner = engine.load_model("small", task="text-generation", path=save_llama(tmp_path, chat=False))
    one = engine.infer(runner, {"inputs": "a"}, {"max_new_tokens": 2, "num_beams": 2})
    assert one["completion_tokens"]
    [outcome] = engine.infer_batch(runner, [{"inputs": "a b c"}], [{"max_new_tokens": CONTEXT // 2, "num_beams": 1024}])
    assert isinstance(outcome, InvalidOption)
    assert "options.num_beams is 1024" in outcome.message
    assert "transformers.kv_cache_bytes" in outcome.message


def test_a_stop_string_ends_the_answer_and_is_cut_out(raw: Any) -> None:
    whole = answer(raw, {"inputs": PROMPTS[0]}, max_new_tokens=12)
    words = whole["generated_text"].split()
    assert len(words) == 12
    stop = words[5]
    stopped = answer(raw, {"inputs": PROMPTS[0]}, max_new_tokens=12, stop=[stop, "never"])
    assert stopped["finish_reason"] == "stop"
    assert stopped["generated_text"].split() == words[: words.index(stop)]
    assert stopped["completion_tokens"] == words.index(stop) + 1


def test_an_answer_cut_by_its_budget_says_length(raw: Any) -> None:
    result = answer(raw, {"inputs": "a"}, max_new_tokens=3)
    assert (result["finish_reason"], result["completion_tokens"]) == ("length", 3)


def test_an_end_token_says_stop_and_is_no_part_of_the_answer(raw: Any) -> None:
    first = answer(raw, {"inputs": "a"}, max_new_tokens=1)["generated_text"].strip()
    ends, raw.ends = raw.ends, frozenset(raw.tokenizer.convert_tokens_to_ids([first]))
    try:
        result = answer(raw, {"inputs": "a"}, max_new_tokens=5)
    finally:
        raw.ends = ends
    assert result == {
        "generated_text": "",
        "prompt_tokens": 1,
        "completion_tokens": 0,
        "finish_reason": "stop",
    }


@pytest.mark.parametrize("ends", [[2, 7, 9], 11, None], ids=["several", "one", "none"])
def test_whatever_ends_an_answer_it_is_where_generate_ends_it(ends: list[int] | int | None, tmp_path: Path) -> None:
    folder = save_llama(tmp_path, chat=False)
    for file, names in {
        "tokenizer_config.json": ("eos_token", "pad_token", "bos_token"),
        "generation_config.json": ("eos_token_id", "pad_token_id"),
        "config.json": ("eos_token_id", "pad_token_id"),
    }.items():
        content = json.loads((folder / file).read_text())
        content.update(dict.fromkeys(names))
        if ends is not None and file == "generation_config.json":
            content["eos_token_id"] = ends
        (folder / file).write_text(json.dumps(content))
    runner: Any = ENGINE.load_model("ends", task="text-generation", path=folder)
    assert runner.tokenizer.eos_token_id is None
    stops = frozenset([ends] if isinstance(ends, int) else ends or [])
    outcomes = ENGINE.infer_batch(
        runner, [{"inputs": prompt} for prompt in PROMPTS], [{"max_new_tokens": 20}] * len(PROMPTS)
    )
    for prompt, outcome in zip(PROMPTS, outcomes, strict=True):
        own = own_generate(runner, runner.tokenizer(prompt)["input_ids"], max_new_tokens=20)
        own = own[:-1] if own[-1] in stops else own
        assert isinstance(outcome, dict)
        assert outcome["completion_tokens"] == len(own)
        assert outcome["generated_text"].strip() == runner.tokenizer.decode(own, skip_special_tokens=True)


def test_max_length_counts_the_prompt(raw: Any) -> None:
    assert answer(raw, {"inputs": "a b c"}, max_length=8)["completion_tokens"] <= 5
    error = refusal(raw, {"inputs": "a b c"}, max_length=3)
    assert isinstance(error, InvalidOption)
    assert "options.max_length is 3, but the prompt alone has 3 tokens" in error.message


def test_the_budget_ends_at_the_models_context(raw: Any) -> None:
    result = answer(raw, {"inputs": "a " * (CONTEXT - 4)}, max_new_tokens=1000)
    assert result["prompt_tokens"] + result["completion_tokens"] <= CONTEXT


def test_a_prompt_beyond_the_context_gives_both_numbers(raw: Any) -> None:
    error = refusal(raw, {"inputs": "a " * CONTEXT})
    assert isinstance(error, InvalidInput)
    assert f"the prompt has {CONTEXT} tokens; model raw takes {CONTEXT}" in error.message


def test_a_prompt_without_tokens_is_refused(raw: Any) -> None:
    assert isinstance(refusal(raw, {"inputs": " "}), InvalidInput)


def test_bad_rows_do_not_cost_their_neighbours_the_batch(raw: Any) -> None:
    inputs = [{"inputs": "a"}, {"inputs": "a " * 99}, {"inputs": "b"}]
    outcomes = ENGINE.infer_batch(raw, inputs, [{"max_new_tokens": 4}] * 3)
    assert outcomes[0] == answer(raw, inputs[0], max_new_tokens=4)
    assert isinstance(outcomes[1], InvalidInput)
    assert outcomes[2] == answer(raw, inputs[2], max_new_tokens=4)


def test_the_same_seed_gives_the_same_answer_alone_and_in_any_company(raw: Any) -> None:
    drawn = {"temperature": 1.5, "max_new_tokens": 12}
    alone = answer(raw, {"inputs": "a"}, seed=7, **drawn)
    assert answer(raw, {"inputs": "a"}, seed=7, **drawn) == alone
    assert answer(raw, {"inputs": "a"}, seed=8, **drawn) != alone
    company = [{"inputs": "b c d"}, {"inputs": "a"}, {"inputs": "x"}]
    options: list[dict[str, Any]] = [
        {"max_new_tokens": 5},
        {"seed": 7, **drawn},
        {"seed": 1, "temperature": 0.5},
    ]
    outcomes = ENGINE.infer_batch(raw, company, options)
    assert outcomes[1] == alone
    assert outcomes[0] == answer(raw, company[0], max_new_tokens=5)


@pytest.mark.parametrize("greedy", [{"do_sample": False, "temperature": 1.5}, {"temperature": 0.0}, {"top_k": 1}])
def test_ways_to_ask_for_the_likeliest_tokens(raw: Any, greedy: dict[str, Any]) -> None:
    assert answer(raw, {"inputs": "a"}, max_new_tokens=8, **greedy) == answer(raw, {"inputs": "a"}, max_new_tokens=8)


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"top_p": 0.9}, True),
        ({"top_k": 5}, True),
        ({"do_sample": True}, True),
        ({"do_sample": False, "top_p": 0.9}, False),
        ({"temperature": 0}, False),
        ({"do_sample": True, "temperature": 0}, False),
        ({"seed": 3}, False),
    ],
)
def test_sampling_is_asked_for_by_naming_one_of_its_options(options: dict[str, Any], drawn: bool) -> None:
    assert Sampling.of_request(options, Sampling()).do_sample is drawn


def test_a_models_own_sampling_is_the_default_and_a_request_goes_before_it() -> None:
    own = Sampling(do_sample=True, temperature=0.6, top_p=0.95)
    assert Sampling.of_request({}, own) == own
    assert Sampling.of_request({"temperature": 0}, own).do_sample is False
    assert Sampling.of_request({"top_p": 0.5}, own) == Sampling(do_sample=True, temperature=0.6, top_p=0.5)


def test_drawn_tokens_follow_their_chances() -> None:
    picker = TokenPicker(Sampling(do_sample=True, seed=1))
    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = [picker.pick(scores, torch.tensor([], dtype=torch.int64)) for _ in range(4000)]
    assert [drawn.count(token) / 4000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(do_sample=True, top_k=2, seed=1), {0, 1}),
        (Sampling(do_sample=True, top_p=0.6, seed=1), {0, 1}),
        (Sampling(do_sample=True, top_p=0.5, seed=1), {0}),
        (Sampling(do_sample=True, top_p=0.0, seed=1), {0}),
        (Sampling(do_sample=True, temperature=2.0, seed=1), {0, 1, 2}),
    ],
)
def test_only_the_tokens_that_the_settings_leave_are_drawn(sampling: Sampling, possible: set[int]) -> None:
    picker = TokenPicker(sampling)
    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    assert {picker.pick(scores, torch.tensor([], dtype=torch.int64)) for _ in range(300)} == possible
