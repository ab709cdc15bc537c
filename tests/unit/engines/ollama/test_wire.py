"""A stream's lines come out whole, however the network cuts it; what is no line of Ollama's is named."""

from __future__ import annotations

import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.ollama import wire
from engines.ollama.wire import AnswerChunk, BadLine, JsonLines, ModelList, Shown


def stream(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"response": text}, ensure_ascii=False).encode() + b"\n" for text in texts)


@given(st.lists(st.text()), st.lists(st.integers(0, 500)))
def test_objects_are_the_same_wherever_the_stream_is_cut(texts: list[str], cuts: list[int]) -> None:
    whole, lines = stream(texts), JsonLines(AnswerChunk)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    heard = [chunk for start, end in itertools.pairwise(edges) for chunk in lines.feed(whole[start:end])]
    assert [chunk.response for chunk in heard + lines.feed(b"\n")] == texts


def test_a_character_cut_in_two_arrives_whole() -> None:
    lines = JsonLines(AnswerChunk)
    whole = stream(["🙂 日本"])
    assert [lines.feed(whole[at : at + 1]) for at in range(len(whole) - 1)] == [[]] * (len(whole) - 1)
    assert lines.feed(b"\n") == [AnswerChunk(response="🙂 日本")]


def test_empty_lines_and_windows_line_ends_are_passed_over() -> None:
    lines = JsonLines(AnswerChunk)
    heard = lines.feed(b'\n\r\n{"response": "a"}\r\n\n  \n{"response": "b"}\n')
    assert [chunk.response for chunk in heard] == ["a", "b"]
    assert lines.feed(b"\n") == []


def test_a_last_line_needs_no_line_end_but_must_be_whole() -> None:
    lines = JsonLines(AnswerChunk)
    assert lines.feed(b'{"done": true}') == []
    assert lines.feed(b"\n") == [AnswerChunk(done=True)]
    lines.feed(b'{"done": tr')
    with pytest.raises(BadLine, match="truncated"):
        lines.feed(b"\n")


@pytest.mark.parametrize("line", [b"<html>\n", b"[1]\n", b'{"done": 1}\n', b'{"response": "\xff"}\n', b"null\n"])
def test_a_line_of_another_kind_is_shown(line: bytes) -> None:
    with pytest.raises(BadLine) as caught:
        JsonLines(AnswerChunk).feed(line)
    assert repr(line.strip())[2:-1] in str(caught.value)


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_LINE_BYTES", 100)
    lines = JsonLines(AnswerChunk)
    lines.feed(b"x" * 60)
    with pytest.raises(BadLine, match="more than 100 bytes"):
        lines.feed(b"x" * 60)


def test_a_parameter_of_the_modelfile_is_found_by_its_whole_name() -> None:
    shown = Shown(parameters='repeat_last_n    64\nstop     "<|end|>"\nrepeat_penalty                 1.1\n')
    assert shown.parameter("repeat_penalty") == "1.1"
    assert shown.parameter("stop") == "<|end|>"
    assert shown.parameter("repeat") is None


def test_a_server_without_models_may_send_null() -> None:
    assert msgspec.json.decode(b'{"models": null}', type=ModelList).names == []
