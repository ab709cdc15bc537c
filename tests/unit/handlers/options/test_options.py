"""The table of options: what is accepted, what is refused, and what the refusal tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import InvalidOption
from handlers.options.options import OPTIONS, OptionSpec, options_of, translate_options, validate_options

TEXT = options_of("text-generation")
ASR = options_of("asr")


def refusal(options: Any, *, task_options: Any = TEXT, engine: str = "transformers") -> str:
    with pytest.raises(InvalidOption) as caught:
        validate_options(options, task_options=task_options, engine=engine)
    return caught.value.message


def accepted(options: Any, *, task_options: Any = TEXT, engine: str = "transformers") -> dict[str, Any]:
    return validate_options(options, task_options=task_options, engine=engine)


def test_no_options_and_null_options_are_no_options() -> None:
    assert accepted(None) == {}
    assert accepted({"seed": None, "stop": None}) == {}


def test_valid_options_come_back_under_canonical_names() -> None:
    assert accepted({"num_predict": 8, "repeat_penalty": 1.2, "temperature": 1, "stop": "x"}) == {
        "max_new_tokens": 8,
        "repetition_penalty": 1.2,
        "temperature": 1.0,
        "stop": ["x"],
    }


def test_an_integer_given_for_a_number_arrives_as_a_float() -> None:
    assert type(accepted({"temperature": 1})["temperature"]) is float


def test_two_and_two_point_nought_are_one_number_as_in_json() -> None:
    assert type(accepted({"top_k": 2.0})["top_k"]) is int
    assert type(accepted({"mirostat": 2.0}, engine="ollama")["mirostat"]) is int
    assert accepted({"think": True}, engine="ollama") == {"think": True}


def test_an_unknown_option_is_named_with_the_nearest_known_one() -> None:
    assert refusal({"max_new_token": 3}) == (
        "options.max_new_token is unknown; the nearest known option is max_new_tokens"
    )


def test_every_unknown_option_is_named() -> None:
    message = refusal({"temprature": 1, "top_q": 1, "temperature": 1})
    assert "options.temprature is unknown; the nearest known option is temperature" in message
    assert "options.top_q is unknown" in message


def test_an_unknown_option_far_from_all_lists_the_known_ones() -> None:
    message = refusal({"zzzzzzzz": 1})
    assert "options.zzzzzzzz is unknown; this task takes" in message
    assert "max_new_tokens" in message


def test_an_option_of_another_task_says_whose_it_is() -> None:
    assert refusal({"language": "en"}) == "options.language is an option of asr only; leave it out"
    assert "options.stop is an option of text-generation" in refusal({"stop": "x"}, task_options=ASR)


@pytest.mark.parametrize(
    ("task", "useless"),
    [
        ("asr", ["max_length", "do_sample", "top_p", "top_k", "stop"]),
        ("ocr", ["temperature", "seed", "do_sample", "top_p", "top_k", "stop", "max_length"]),
        ("audio-classification", ["max_new_tokens", "temperature", "num_beams", "stop", "seed"]),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(task: str, useless: list[str]) -> None:
    for name in useless:
        assert f"options.{name} is an option of" in refusal({name: 1}, task_options=options_of(task))


@pytest.mark.parametrize("name", ["mirostat", "mirostat_tau", "num_ctx", "keep_alive", "format", "think"])
def test_an_option_of_ollama_is_refused_for_transformers_and_says_so(name: str) -> None:
    assert f"options.{name} is an option of engine ollama, not of transformers" in refusal({name: 1})


def test_beams_are_refused_for_ollama() -> None:
    assert "num_beams is an option of engine transformers" in refusal({"num_beams": 2}, engine="ollama")


def test_a_custom_engine_takes_the_options_of_every_engine() -> None:
    options = {"mirostat": 1, "num_beams": 2, "think": "low"}
    assert accepted(options, engine="mine") == options


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("temperature", 2.1, "a number from 0 to 2"),
        ("temperature", -0.1, "a number from 0 to 2"),
        ("temperature", "1", "a number from 0 to 2"),
        ("temperature", float("nan"), "a number from 0 to 2"),
        ("temperature", float("inf"), "a number from 0 to 2"),
        pytest.param("temperature", 10**5000, "a number from 0 to 2", id="huge"),
        ("temperature", True, "a number from 0 to 2"),
        ("top_p", 1.5, "a number from 0 to 1"),
        ("top_k", -1, "an integer from 0 to 1000000"),
        ("top_k", 2.5, "an integer from 0 to 1000000"),
        ("top_k", True, "an integer from 0 to 1000000"),
        ("max_new_tokens", 0, "an integer from 1 to limits.max_tokens"),
        ("do_sample", 1, "true or false"),
        ("early_stopping", "soon", 'one of true, false, "never"'),
        ("stop", "", "a non-empty string or a list of at most 16 of them"),
        ("stop", [], "a non-empty string or a list of at most 16 of them"),
        ("stop", ["a", ""], "a non-empty string or a list of at most 16 of them"),
        ("stop", ["a"] * 17, "a non-empty string or a list of at most 16 of them"),
        ("stop", [1], "a non-empty string or a list of at most 16 of them"),
        ("seed", -1, "an integer from 0 to"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(option: str, value: Any, allowed: str) -> None:
    message = refusal({option: value})
    assert message.startswith(f"options.{option} is ")
    assert f"it must be {allowed}" in message
    assert len(message) < 250


def test_a_value_is_shown_as_json_shows_it() -> None:
    assert refusal({"top_k": True}).startswith("options.top_k is true;")
    assert refusal({"top_k": "5"}).startswith('options.top_k is "5";')


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("mirostat", [0, 1, 2], [True, 3, "1"]),
        ("think", [True, False, "high"], [1, "very"]),
        ("keep_alive", [0, -1, 300, 1.5, "5m", "1h30m", "-1s"], ["5 minutes", "", True, "m", float("inf")]),
        ("format", ["json", {"type": "object"}], ["xml", {}, 1]),
        ("num_ctx", [1, 4096], [0, "4k"]),
    ],
)
def test_options_of_ollama_are_checked_too(option: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert accepted({option: value}, engine="ollama") == {option: value}
    for value in bad:
        assert f"options.{option} is" in refusal({option: value}, engine="ollama")


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("min_p", [0.0, 0.05, 1.0], [-0.1, 1.1, "0.1"]),
        ("typical_p", [0.7], [2]),
        ("presence_penalty", [-2.0, 1.5], [2.1]),
        ("frequency_penalty", [-2.0, 1.5], [-3]),
        ("repeat_last_n", [-1, 0, 64], [-2, 1.5]),
        ("num_keep", [-1, 0, 24], [-2, True]),
        ("num_batch", [1, 512], [0]),
        ("num_gpu", [-1, 0, 99], [-2, "all"]),
        ("main_gpu", [0, 3], [-1]),
        ("num_thread", [0, 8], [-1]),
        ("draft_num_predict", [0, 4], [-1]),
        ("use_mmap", [True, False], [0, "yes"]),
        ("penalize_newline", [True, False], [1]),
        ("numa", [True, False], [1]),
        ("low_vram", [True, False], [1]),
        ("use_mlock", [True, False], [1]),
        ("tfs_z", [0.0, 1.0], [-1]),
    ],
)
def test_the_options_of_ollama_are_those_its_server_documents(option: str, good: list[Any], bad: list[Any]) -> None:
    assert f"options.{option} is an option of engine ollama" in refusal({option: good[0]})
    for value in good:
        assert accepted({option: value}, engine="ollama") == {option: value}
    for value in bad:
        assert f"options.{option} is" in refusal({option: value}, engine="ollama")


@pytest.mark.parametrize(
    ("option", "value"), [("num_predict", -1), ("num_predict", -2.0), ("max_new_tokens", -2), ("seed", -1)]
)
def test_ollama_takes_whole_numbers_beyond_the_range_that_mean_something_to_it(option: str, value: float) -> None:
    (checked,) = accepted({option: value}, engine="ollama").values()
    assert (checked, type(checked)) == (int(value), int)
    assert accepted({option: value}, engine="mine") == accepted({option: value}, engine="ollama")
    assert f"options.{option} is {value}; it must be an integer from" in refusal({option: value})
    assert "(ollama: also -1" in refusal({option: value})


@pytest.mark.parametrize(("option", "value"), [("num_predict", 0), ("num_predict", -3), ("seed", -2)])
def test_other_numbers_beyond_the_range_are_refused_by_ollama_too(option: str, value: int) -> None:
    assert f"options.{option} is {value}; it must be an integer from" in refusal({option: value}, engine="ollama")


@pytest.mark.parametrize("value", ["segment", "word", False])
def test_timestamps_of_asr_are_segment_word_or_false(value: Any) -> None:
    assert accepted({"timestamps": value}, task_options=ASR) == {"timestamps": value}
    assert '"segment", "word", false' in refusal({"timestamps": "char"}, task_options=ASR)
    assert "options.timestamps" in refusal({"timestamps": 0}, task_options=ASR)


def test_one_option_under_two_names_must_agree() -> None:
    assert accepted({"num_predict": 5, "max_new_tokens": 5}) == {"max_new_tokens": 5}
    assert refusal({"num_predict": 5, "max_new_tokens": 6}) == (
        "options.num_predict and options.max_new_tokens are one option but are 5 and 6; give one of them"
    )


def test_a_task_without_a_table_checks_known_names_and_passes_others() -> None:
    assert accepted({"num_predict": 5, "mine": object}, task_options=None) == {
        "max_new_tokens": 5,
        "mine": object,
    }
    assert "a number from 0 to 2" in refusal({"temperature": 9}, task_options=None)


def test_a_task_may_bring_options_of_its_own() -> None:
    own = {"style": OptionSpec("style", "choice", "How it reads.", choices=("plain", "ornate"))}
    assert accepted({"style": "plain"}, task_options=own) == {"style": "plain"}
    assert "temperature is an option of" in refusal({"temperature": 1}, task_options=own)


@pytest.mark.parametrize("options", [[], "a", 1, [("a", 1)]])
def test_options_that_are_no_object_are_refused(options: Any) -> None:
    assert "options must be an object of names and values" in refusal(options)


def test_options_are_translated_into_the_names_of_an_engine() -> None:
    options = {"max_new_tokens": 5, "repetition_penalty": 1.1, "temperature": 0.5, "mine": 1}
    assert translate_options(options, "ollama") == {
        "num_predict": 5,
        "repeat_penalty": 1.1,
        "temperature": 0.5,
        "mine": 1,
    }
    assert translate_options(options, "transformers") == options


def test_every_option_says_what_it_does_and_what_it_allows() -> None:
    for name, spec in OPTIONS.items():
        assert name == spec.name
        assert spec.description.endswith(".")
        assert spec.allowed
        assert spec.tasks


@given(
    st.dictionaries(
        st.sampled_from([*OPTIONS, "num_predict", "other"]) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_whatever_comes_is_accepted_or_refused_cleanly_and_checked_twice_is_the_same(options: Any) -> None:
    try:
        checked = accepted(options)
    except InvalidOption:
        pass
    else:
        assert set(checked) <= set(TEXT)
        assert accepted(checked) == checked


"""The common options as a client that always sends them all does, changing nothing."""
