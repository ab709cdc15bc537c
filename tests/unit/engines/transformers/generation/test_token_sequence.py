"""One answer in the making: when it is done, and what of it may be shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engines.transformers.generation.sampling import Sampling, TokenPicker
from engines.transformers.generation.token_sequence import TokenSequence
from tests.unit.engines.tiny_models import WORDS, tokenizer


def row(budget: int, *, prompt: Sequence[str] = ("a",), stop: Sequence[str] = ()) -> TokenSequence:
    return TokenSequence(
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


def bytes_row(budget: int, stop: Sequence[str] = ()) -> tuple[TokenSequence, dict[str, int]]:
    """Return a row whose tokens are bytes, as those of rare characters are in most models, and the tokens."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one = TokenSequence(
        [vocabulary["a"]],
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend),  # type: ignore[no-untyped-call]
        ends=frozenset({-1}),
        budget=budget,
        stop=stop,
        picker=TokenPicker(Sampling()),
    )
    return one, vocabulary


def grown(text: str, budget: int, stop: Sequence[str] = ()) -> TokenSequence:
    """Return a row to which the bytes of `text` come until it is done."""
    one, _ = bytes_row(budget, stop)
    for token in one.tokenizer(text)["input_ids"]:
        one.accept(token)
    return one


@pytest.mark.parametrize("character", ["é", "水", "😀"])
def test_a_text_cut_at_its_length_never_ends_in_half_a_character(character: str) -> None:
    size = len(character.encode())
    for budget in range(1, 3 * size + 1):
        one = grown(character * 3, budget)
        assert one.finish_reason == "length"
        assert one.text() == one.settled_text() == character * (budget // size)


def test_a_row_that_is_given_up_never_ends_in_half_a_character() -> None:
    one = grown("o😀"[:2], 10)
    one.tokens.pop()
    one.give_up()
    assert one.text() == "o"


def test_a_stop_string_after_many_bytes_cuts_between_characters() -> None:
    one = grown("水x😀y", 100, stop=["😀"])
    assert (one.finish_reason, one.text()) == ("stop", "水x")
