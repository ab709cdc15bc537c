"""The JSON Schema of options says what the check of options does."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.errors import InvalidOption
from handlers.options.options import OPTIONS, OptionSpec, options_of, validate_options
from handlers.options.spec import schema_of
from tests.unit.handlers.json_schema import is_valid

TASKS = sorted({task for spec in OPTIONS.values() for task in spec.tasks})
ENGINES = ["transformers", "ollama", "mine"]
NAMES = sorted({name for spec in OPTIONS.values() for name in spec.names})

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.floats(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["json", "never", "high", "word", "5m", "1h30m", "5 m", "", " ", "٣s", "5m\n"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def options_schema(task: str, engine: str | None = None) -> dict[str, Any]:
    return schema_of(options_of(task), engine)


def is_accepted(options: Any, task: str, engine: str) -> bool:
    try:
        validate_options(options, task_options=options_of(task), engine=engine)
    except InvalidOption:
        return False
    return True


@given(
    st.dictionaries(st.sampled_from([*NAMES, "unheard_of"]), values, max_size=3),
    st.sampled_from(TASKS),
    st.sampled_from(ENGINES),
)
@example({"top_k": 2.0}, "vlm", "transformers")
@example({"mirostat": True}, "vlm", "ollama")
@example({"stop": ["a"] * 17}, "vlm", "ollama")
@example({"num_predict": 5, "max_new_tokens": 6}, "vlm", "ollama")
@example({"early_stopping": None}, "document-analysis", "ollama")
@example({"num_predict": -2.0, "seed": -1}, "vlm", "ollama")
@example({"max_new_tokens": -1}, "vlm", "transformers")
@example({"num_beams": 1, "length_penalty": 1}, "vlm", "ollama")
@example({"seed": -1}, "vlm", "mine")
def test_the_schema_accepts_what_the_check_accepts(options: dict[str, Any], task: str, engine: str) -> None:
    fits = is_valid(options, options_schema(task, engine))
    if is_accepted(options, task, engine):
        assert fits
    elif fits:  # the one thing a schema cannot say
        assert any(len([name for name in spec.names if name in options]) > 1 for spec in OPTIONS.values())


@pytest.mark.parametrize("options", [None, {}, {"seed": None}, [], "a", 1])
def test_what_is_no_object_is_refused_and_null_is_no_options(options: Any) -> None:
    assert is_valid(options, options_schema("asr")) == is_accepted(options, "asr", "transformers")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_a_schema_is_json_and_names_its_dialect_and_describes_every_option(task: str, engine: str | None) -> None:
    schema = options_schema(task, engine)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all(option["description"] for option in schema["properties"].values())


def test_without_an_engine_the_options_of_every_engine_are_there() -> None:
    assert {"num_predict", "mirostat", "num_beams"} <= options_schema("vlm")["properties"].keys()
    assert "mirostat" not in options_schema("vlm", "transformers")["properties"]
    of_ollama = options_schema("vlm", "ollama")["properties"]
    assert of_ollama["num_beams"]["enum"] == [1, None]  # what changes nothing


def test_a_task_with_a_table_of_its_own_has_a_schema_of_it() -> None:
    own = {"style": OptionSpec("style", "choice", "How it reads.", choices=("plain", "ornate"))}
    assert is_valid({"style": "plain"}, schema_of(own))
    assert not is_valid({"style": "loud"}, schema_of(own))
    assert not is_valid({"temperature": 1}, schema_of(own))


def test_a_task_without_a_table_describes_known_names_and_lets_others_pass() -> None:
    schema = schema_of(OPTIONS, others_pass=True)
    assert is_valid({"mine": [1], "temperature": 1}, schema)
    assert not is_valid({"temperature": 9}, schema)


def test_the_ends_of_every_range_are_within_it_and_what_lies_beyond_is_not() -> None:
    for spec in OPTIONS.values():
        if spec.kind not in ("integer", "number"):
            continue
        assert spec.minimum is not None
        assert spec.maximum is not None
        schema = spec.schema("transformers")
        for number, inside in (
            (spec.minimum, True),
            (spec.maximum, True),
            (spec.minimum - 1, False),
            (math.ceil(spec.maximum) + 1, False),
        ):
            assert is_valid(number, schema) is inside
            if inside:
                spec.check(number, written=spec.name, engine="transformers")
            else:
                with pytest.raises(InvalidOption, match=f"options.{spec.name} is"):
                    spec.check(number, written=spec.name, engine="transformers")


def test_what_only_one_engine_takes_is_in_its_schema_and_in_that_of_every_engine() -> None:
    for engine, fits in (("ollama", True), (None, True), ("mine", True), ("transformers", False)):
        assert is_valid({"num_predict": -1}, options_schema("text-generation", engine)) is fits
