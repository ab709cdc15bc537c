"""What bounds an option: settings, lengths, and neutral values that every engine takes."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.errors import InvalidOption
from handlers.options.options import OPTIONS, options_of, validate_options
from tests.unit.handlers.options.test_options import TEXT, accepted, refusal

BOUNDS = {"limits.max_tokens": 100, "limits.max_beams": 4}


@pytest.mark.parametrize(
    ("option", "most", "setting"),
    [
        ("max_new_tokens", 100, "limits.max_tokens"),
        ("num_predict", 100, "limits.max_tokens"),
        ("max_length", 100, "limits.max_tokens"),
        ("num_beams", 4, "limits.max_beams"),
    ],
)
def test_a_value_beyond_the_bound_names_the_bound_and_its_setting(option: str, most: int, setting: str) -> None:
    assert validate_options({option: most}, task_options=TEXT, engine="transformers", bounds=BOUNDS)
    for value in (most + 1, 10**30):
        with pytest.raises(InvalidOption) as caught:
            validate_options({option: value}, task_options=TEXT, engine="transformers", bounds=BOUNDS)
        assert f"options.{option} is {value}; {setting} allows at most {most}" in caught.value.message


def test_a_value_below_the_range_names_the_bound_as_well() -> None:
    with pytest.raises(InvalidOption, match=r"from 1 to limits\.max_beams; limits\.max_beams is 4"):
        validate_options({"num_beams": 0}, task_options=TEXT, engine="transformers", bounds=BOUNDS)


@pytest.mark.parametrize("length", ["max_new_tokens", "max_length"])
def test_beams_times_tokens_beyond_the_bound_name_the_bound_and_its_setting(length: str) -> None:
    def asked(beams: int, tokens: int) -> dict[str, Any]:
        return validate_options(
            {"num_beams": beams, length: tokens},
            task_options=TEXT,
            engine="transformers",
            bounds={**BOUNDS, "limits.max_beam_tokens": 120},
        )

    assert asked(1, 100)
    assert asked(4, 30)
    with pytest.raises(InvalidOption) as caught:
        asked(4, 31)
    told = f"options.num_beams times options.{length} is 124; limits.max_beam_tokens allows at most 120"
    assert told in caught.value.message


@pytest.mark.parametrize(("task", "option"), [("text-generation", "stop"), ("asr", "language")])
def test_very_long_strings_are_refused(task: str, option: str) -> None:
    longest = OPTIONS[option].longest
    assert longest is not None
    checked = validate_options({option: "a" * longest}, task_options=options_of(task), engine="transformers")
    assert checked
    with pytest.raises(InvalidOption, match=f"with at most {longest} characters"):
        validate_options({option: "a" * (longest + 1)}, task_options=options_of(task), engine="transformers")


def test_thousands_of_unknown_options_are_counted_and_not_looked_up_each() -> None:
    with pytest.raises(InvalidOption) as caught:
        accepted({f"option_{number}": 1 for number in range(50_000)})
    assert "49992 more are unknown" in caught.value.message
    assert len(caught.value.message) < 5000


def test_as_many_tokens_as_there_are_means_as_many_as_the_bound_allows() -> None:
    for value in (-1, -2):
        checked = validate_options({"num_predict": value}, task_options=TEXT, engine="ollama", bounds=BOUNDS)
        assert checked == {"max_new_tokens": 100}


def test_every_option_that_takes_memory_or_time_by_its_size_has_a_bound() -> None:
    sizes = {name for name, spec in OPTIONS.items() if spec.bound}
    assert sizes == {
        "max_new_tokens",
        "max_length",
        "num_beams",
        "num_frames",
        "num_ctx",
        "num_keep",
        "num_batch",
        "num_thread",
        "repeat_last_n",
        "draft_num_predict",
    }
    assert all(spec.bound in spec.allowed for spec in OPTIONS.values() if spec.bound)


NEUTRAL = {
    "max_length": 20,
    "max_new_tokens": 20,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "do_sample": False,
    "num_beams": 1,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
}


@pytest.mark.parametrize("engine", ["transformers", "ollama", "mine"])
def test_common_options_with_neutral_values_are_taken_by_every_engine(engine: str) -> None:
    checked = accepted(NEUTRAL, engine=engine)
    beams = {"num_beams", "early_stopping", "length_penalty"}
    assert checked.keys() == NEUTRAL.keys() - (beams if engine == "ollama" else set())


def test_only_the_neutral_value_of_another_engines_option_is_taken() -> None:
    assert "options.num_beams is an option of engine transformers" in refusal({"num_beams": 2}, engine="ollama")
    assert "options.num_beams is an option of engine transformers" in refusal({"num_beams": True}, engine="ollama")
