"""One answer in the making: when it is done, and what of it may be shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engines.transformers.row import Row
from engines.transformers.sampling import Sampling, TokenPicker
from tests.unit.engines.tiny_models import WORDS, tokenizer


def row(budget: int, *, prompt: Sequence[str] = ("a",), stop: Sequence[str] = ()) -> Row:
    return Row(
        [WORDS.index(name) for name in prompt],
        tokenizer=tokenizer(chat=False),
        ends=frozenset({2}),
        budget=budget,
        stop=stop,
        picker=TokenPicker(Sampling()),
    )


def test_text_that_may_still_change_is_held_back() -> None:
    one = row(10, stop=["b c"])
    for word in ("a", "b"):
        one.accept(WORDS.index(word))
    assert one.settled_text() == " a "
    one.accept(WORDS.index("d"))
    assert one.settled_text() == " a b d"


def test_a_row_that_starts_again_has_no_tokens_and_its_first_seed() -> None:
    one = row(10)
    one.accept(WORDS.index("a"))
    one.give_up()
    one.start_again()
    assert (one.tokens, one.finish_reason) == ([], None)


@pytest.mark.parametrize("prompt", [["a"], ["a", *["<s>"] * 20]], ids=["plain", "special-tokens-last"])
def test_a_stop_string_that_begins_with_the_first_space_ends_the_row(prompt: list[str]) -> None:
    one = row(10, prompt=prompt, stop=[" b"])
    assert one.accept(WORDS.index("b"))
    assert (one.finish_reason, one.text()) == ("stop", "")


def test_a_prompt_without_text_gives_the_answer_no_first_space() -> None:
    one = row(10, prompt=["<s>"], stop=["b c"])
    assert not one.accept(WORDS.index("b"))
    assert one.accept(WORDS.index("c"))
    assert one.text() == ""


def test_a_long_prompt_is_not_decoded_anew_for_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    one = row(4, prompt=["a", "b"] * 500, stop=["z"])
    lengths: list[int] = []
    decode = one._decode

    def counted(tokens: list[int]) -> str:
        lengths.append(len(tokens))
        return decode(tokens)

    monkeypatch.setattr(one, "_decode", counted)
    while not one.accept(WORDS.index("c")):
        pass
    assert one.text() == " c c c c"
    assert max(lengths) < 20
