"""What a text-generation request may hold, and how its answer reads."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.errors import InvalidInput
from handlers.text_generation import TextGenerationHandler

handler = TextGenerationHandler()


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as caught:
        handler.preprocess(data, {})
    return caught.value.message


def test_a_prompt_passes_as_it_is() -> None:
    assert handler.preprocess({"inputs": " Grüße 👋\n"}, {}) == {"inputs": " Grüße 👋\n"}


def test_messages_pass_with_role_and_content_alone() -> None:
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "hi", "name": "x", "refusal": None, "tool_calls": []},
    ]
    assert handler.preprocess({"messages": messages}, {}) == {
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]
    }


def test_neither_inputs_nor_messages_names_both_and_what_came() -> None:
    assert refusal({}) == "data.inputs (a string) or data.messages (a list) is required; got nothing"
    assert "got input, x" in refusal({"input": "hi", "x": 1})


def test_inputs_and_messages_together_are_refused() -> None:
    assert "both given; send one of them" in refusal({"inputs": "a", "messages": []})


@pytest.mark.parametrize("inputs", ["", "  \n", 5, ["a"], {"a": 1}, True])
def test_inputs_must_be_a_string_with_text(inputs: Any) -> None:
    assert "it must be a string with some text in it" in refusal({"inputs": inputs})


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "data.messages is []; it must be a list of {role, content}"),
        ("hi", 'data.messages is "hi"; it must be a list of {role, content}'),
        ([{"role": "user", "content": "a"}, "b"], 'data.messages[1] is "b"; it must be an object'),
        (
            [{"role": "boss", "content": "a"}],
            'data.messages[0].role is "boss"; it must be one of system, user',
        ),
        ([{"content": "a"}], "data.messages[0].role is None"),
        ([{"role": ["user"], "content": "a"}], "data.messages[0].role is ['user']"),
        ([{"role": "user", "content": ""}], 'data.messages[0].content is ""; it must be a string'),
        ([{"role": "user", "content": ["a"]}], "data.messages[0].content is ['a']"),
        (
            [{"role": "user", "content": "a", "images": ["aGk="]}],
            'data.messages[0] has "images", which no model would see',
        ),
        (
            [{"role": "assistant", "content": "a", "tool_calls": [{}], "function_call": {"name": "f"}}],
            'data.messages[0] has "tool_calls", "function_call", which no model would see',
        ),
    ],
)
def test_a_bad_message_is_named_by_its_index_and_field(messages: Any, told: str) -> None:
    assert told in refusal({"messages": messages})


def test_the_answer_comes_with_its_counts_as_metadata() -> None:
    raw = {"generated_text": "Paris.", "prompt_tokens": 9, "completion_tokens": 2, "finish_reason": "stop"}
    assert handler.postprocess(raw, {}) == {
        "generated_text": "Paris.",
        "metadata": {"prompt_tokens": 9, "completion_tokens": 2, "finish_reason": "stop"},
    }
