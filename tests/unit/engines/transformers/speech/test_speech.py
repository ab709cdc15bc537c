"""What speech recognition is made of, without a model: windows, words, joined texts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.transformers.speech.ctc import split_with_overlap
from engines.transformers.speech.recordings import split_at_pauses
from engines.transformers.speech.segments import Segment, join_texts, segments_at_pauses, words_of

RATE = 1000


def noise(seconds: float, *pauses: float) -> Any:
    """Return noise with half a second of silence around each of `pauses`, in seconds."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32)
    for pause in pauses:
        samples[int((pause - 0.25) * RATE) : int((pause + 0.25) * RATE)] = 0
    return samples


def test_a_short_recording_is_one_window() -> None:
    assert split_at_pauses(noise(30), rate=RATE, window_s=30) == [(0, 30000)]


def test_a_long_recording_is_cut_in_its_pauses() -> None:
    windows = split_at_pauses(noise(65, 10, 26, 48), rate=RATE, window_s=30)
    assert [end / RATE for _, end in windows] == pytest.approx([26, 48, 65], abs=0.25)


def test_of_two_pauses_the_last_one_is_taken() -> None:
    windows = split_at_pauses(noise(40, 24, 28), rate=RATE, window_s=30)
    assert windows[0][1] / RATE == pytest.approx(28, abs=0.25)


@given(st.integers(0, 200_000), st.sampled_from([1.0, 5.0, 30.0]), st.randoms(use_true_random=False))
def test_windows_cover_everything_once_and_none_is_too_long(length: int, window_s: float, random: Any) -> None:
    samples = np.random.default_rng(random.randrange(1000)).uniform(-1, 1, length).astype(np.float32)
    windows = split_at_pauses(samples, rate=RATE, window_s=window_s)
    assert windows[0][0] == 0
    assert windows[-1][1] == length
    assert all(before[1] == after[0] for before, after in pairwise(windows))
    assert all(0 < end - start <= window_s * RATE for start, end in windows if length)


@given(st.integers(0, 3000), st.integers(2, 300), st.data())
def test_overlapping_windows_count_everything_once_and_hear_a_stride_on_either_side(
    length: int, window: int, data: Any
) -> None:
    stride = data.draw(st.integers(0, (window - 1) // 2))
    windows = split_with_overlap(length, window=window, stride=stride)
    assert all(one.end - one.start <= window for one in windows)
    counting = [(one.start + one.left, one.end - one.right) for one in windows]
    assert counting[0][0] == 0
    assert counting[-1][1] == length
    assert all(before[1] == after[0] for before, after in pairwise(counting))
    assert all(start < end for start, end in counting if length)
    assert all(one.right == stride for one in windows[:-1])
    assert all(one.left == stride for one in windows[1:])


def test_the_frames_that_count_are_those_of_the_samples_that_count() -> None:
    first, middle, last = split_with_overlap(2200, window=1000, stride=200)
    assert (first.frames(50), middle.frames(50), last.frames(50)) == (
        slice(0, 40),
        slice(10, 40),
        slice(10, 50),
    )


def test_words_are_parted_into_segments_where_there_is_a_pause() -> None:
    spoken = [("one", 0.0, 0.4), ("two", 0.6, 1.0), ("three", 1.5, 2.0)]
    found = segments_at_pauses([{"word": word, "start": start, "end": end} for word, start, end in spoken], pause_s=0.5)
    assert [one.as_dict() for one in found] == [
        {"start": 0.0, "end": 1.0, "text": "one two"},
        {"start": 1.5, "end": 2.0, "text": "three"},
    ]
    assert segments_at_pauses([], pause_s=0.5) == []


def words(pieces: list[tuple[str, float]], *, language: str | None = "en", end: float = 9.0) -> Any:
    spoken = [(index, time) for index, (_, time) in enumerate(pieces)]
    return words_of(spoken, decode=lambda tokens: "".join(pieces[t][0] for t in tokens), language=language, end=end)


def test_pieces_join_into_words_that_end_where_the_next_begins() -> None:
    found = words([(" He", 0.5), (" w", 1.0), ("as", 1.2), (" not", 1.5), (".", 2.0)], end=2.5)
    assert found == (
        {"word": "He", "start": 0.5, "end": 1.0},
        {"word": "was", "start": 1.0, "end": 1.5},
        {"word": "not.", "start": 1.5, "end": 2.5},
    )


def test_languages_without_spaces_have_a_word_for_every_piece() -> None:
    assert [word["word"] for word in words([("你", 0.0), ("好", 0.5), ("。", 1.0)], language="zh")] == [
        "你",
        "好。",
    ]


def test_a_character_spread_over_several_tokens_is_waited_for() -> None:
    whole = {(0,): " caf\ufffd", (0, 1): " café", (2,): " x"}
    found = words_of([(0, 0.0), (1, 0.4), (2, 1.0)], decode=lambda tokens: whole[tuple(tokens)], language="fr", end=2.0)
    assert [word["word"] for word in found] == ["café", "x"]
    assert found[0]["start"] == 0.0


def test_no_tokens_are_no_words() -> None:
    assert words([]) == ()


def test_texts_are_joined_the_way_the_language_is_written() -> None:
    segments = [Segment(0, 1, " One."), Segment(1, 2, ""), Segment(2, 3, "Two. ")]
    assert join_texts(segments, "en") == "One. Two."
    assert join_texts(segments, "ja") == "One.Two."
    assert join_texts([], "en") == ""


def test_a_segment_reads_as_seconds_and_text() -> None:
    assert Segment(0.1234, 2.0, " Hi. ").as_dict() == {"start": 0.12, "end": 2.0, "text": "Hi."}
