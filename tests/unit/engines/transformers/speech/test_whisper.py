"""Whisper: which windows are heard together, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from engines.transformers.speech import whisper
from engines.transformers.speech.guards import Evidence
from engines.transformers.speech.options import SpeechSettings
from engines.transformers.speech.recordings import Heard, Recording, Window
from engines.transformers.speech.whisper import WhisperRunner
from handlers.errors import OutOfMemory

RATE = 16_000


class Listening(WhisperRunner):
    """Cuts recordings every 30 s and notes the start and length (s) of the windows of every pass.

    Windows of a recording in `doubtful` are heard again so many times.
    """

    def __init__(self, most_windows: int = 8) -> None:
        self.windows = ShrinkOnOutOfMemory("m", of="windows", most=8)
        self.most_windows = most_windows
        self.passes: list[list[tuple[int, int]]] = []
        self.doubtful: dict[int, int] = {}

    def _windows(self, recording: Recording) -> list[Window]:
        end, step = len(recording.samples), 30 * RATE
        windows = [Window(recording, start, min(start + step, end)) for start in range(0, end, step)]
        recording.windows = len(windows)
        return windows

    def _hear(self, windows: Sequence[Window]) -> list[Window | None]:
        self.passes.append([(one.start // RATE, (one.end - one.start) // RATE) for one in windows])
        if len(windows) > self.most_windows:
            raise torch.OutOfMemoryError("no room")
        following: list[Window | None] = []
        for window in windows:
            window.recording.language = window.recording.language or "en"
            if window.attempt < self.doubtful.get(id(window.recording), 0):
                encoded = torch.zeros(1), torch.zeros(1)
                following.append(replace(window, encoded=encoded, attempt=window.attempt + 1))
            else:
                following.append(None)
        return following

    def _result(self, recording: Recording) -> dict[str, Any]:
        return {"passes": len(self.passes)}


def recordings(*lengths_s: int, language: str | None = "en", **settings: Any) -> list[Recording]:
    asked = SpeechSettings(**settings)
    is_given = language is not None
    return [
        Recording(np.zeros(length * RATE, np.float32), language, asked, is_language_given=is_given)
        for length in lengths_s
    ]


def heard(*lengths_s: int, language: str | None, runner: Listening | None = None) -> list[list[tuple[int, int]]]:
    runner = runner or Listening()
    runner.passes = []
    assert len(list(runner.answer(recordings(*lengths_s, language=language)))) == len(lengths_s)
    return runner.passes


def test_windows_of_one_length_share_a_pass() -> None:
    assert heard(*[3, 20] * 8, language="en") == [[(0, 20)] * 8, [(0, 3)] * 8]


def test_the_beginning_of_a_recording_is_heard_first_where_its_language_is_not_known() -> None:
    first, second = heard(65, *[10] * 7, language=None)
    assert first == [(0, 30), *[(0, 10)] * 7]
    assert second == [(30, 30), (60, 5)]


@pytest.mark.parametrize("language", ["en", None])
def test_short_recordings_are_answered_before_a_long_one_of_their_batch(language: str | None) -> None:
    runner = Listening()
    answers = dict(runner.answer(recordings(30 * 20, 5, 12, language=language)))
    assert [answers[place] for place in (1, 2)] == [{"passes": 1}] * 2
    assert list(answers)[-1] == 0


def test_windows_of_one_long_recording_that_do_not_fit_together_are_heard_in_halves_from_then_on() -> None:
    runner = Listening(most_windows=3)
    passes = heard(30 * 10, language=None, runner=runner)
    assert [len(one) for one in passes] == [8, 4, 2, 2, 2, 2, 2]
    assert [start for one in passes[2:] for start, _ in one] == [30 * number for number in range(10)]
    assert [len(one) for one in heard(30 * 4, language="en", runner=runner)] == [2, 2]


def test_a_recording_of_which_no_window_fits_is_worth_another_try() -> None:
    with pytest.raises(OutOfMemory):
        heard(30 * 3, language="en", runner=Listening(most_windows=0))


def test_a_clean_recording_is_answered_while_its_neighbours_are_heard_again() -> None:
    runner, asked = Listening(), recordings(9, 9, 9)
    runner.doubtful = {id(asked[0]): 3}
    order = [(place, outcome["passes"]) for place, outcome in runner.answer(asked) if isinstance(outcome, dict)]
    assert order == [(1, 1), (2, 1), (0, 4)]


def test_clean_recordings_are_all_heard_before_anything_is_heard_again() -> None:
    runner, asked = Listening(), recordings(*[9] * 20)
    runner.doubtful = {id(asked[0]): 2, id(asked[9]): 1}
    order = [place for place, _ in runner.answer(asked)]
    assert [len(one) for one in runner.passes] == [8, 8, 4, 2, 1]
    assert order[-2:] == [9, 0]


def test_neighbours_of_other_settings_do_not_wait_for_what_is_heard_again_either() -> None:
    runner, asked = Listening(), [*recordings(9, seed=1), *recordings(9, seed=2)]
    runner.doubtful = {id(asked[0]): 2}
    assert [place for place, _ in runner.answer(asked)] == [1, 0]


def test_the_rest_of_a_recording_waits_for_the_doubtful_window_that_told_its_language() -> None:
    runner, asked = Listening(), recordings(60, language=None)
    runner.doubtful = {id(asked[0]): 1}
    list(runner.answer(asked))
    assert [start for one in runner.passes for start, _ in one][:2] == [0, 30], "told together"
    runner, asked = Listening(), recordings(*[30] * 7, 60, language=None)
    runner.doubtful = {id(asked[7]): 1}
    list(runner.answer(asked))
    assert runner.passes == [[(0, 30)] * 8, [(0, 30)], [(30, 30)], [(30, 30)]]


def test_no_more_states_of_the_encoder_are_kept_than_fit_two_passes() -> None:
    runner, asked = Listening(), recordings(*[9] * 40)
    runner.doubtful = dict.fromkeys(map(id, asked), 1)
    waiting: list[Window] = []
    hear = runner._hear

    def spied(windows: Sequence[Window]) -> list[Window | None]:
        if windows[0].attempt:
            waiting.extend(windows)
        return hear(windows)

    runner._hear = spied  # type: ignore[method-assign]
    assert len(list(runner.answer(asked))) == 40
    assert sum(window.encoded is not None for window in waiting) == 16
    assert len(waiting) == 40


class OfGivenTokens(WhisperRunner):
    """Hears "text" in every window, and ends it itself in those that begin at a second of `whole`."""

    def __init__(self, whole: set[int]) -> None:
        self.whole = whole
        self.windows = ShrinkOnOutOfMemory("m", of="windows", most=8)
        self.rate = RATE
        self.extractor = SimpleNamespace(chunk_length=30)
        self.tokens: Any = SimpleNamespace(text=lambda tokens: "text", end=100)
        self.model: Any = None

    def _encoded(self, windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(windows), 1, 1), torch.zeros(len(windows), 1)

    def hear(self, model: Any, tokens: Any, windows: Sequence[Window], *_: Any, **more: Any) -> list[Heard]:
        part = {"start": 0.0, "end": 1.0, "tokens": torch.tensor([7])}
        return [
            Heard([part], [7], "text", Evidence(-0.1, -0.1, 0.0, 1.0, window.start // RATE in self.whole))
            for window in windows
        ]


@pytest.mark.parametrize(
    ("whole", "reason"), [({0, 29, 59}, "stop"), ({0}, "length"), ({29, 59}, "length"), (set(), "length")]
)
def test_a_result_says_whether_the_text_of_a_window_was_cut(
    whole: set[int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = OfGivenTokens(whole)
    monkeypatch.setattr(whisper, "hear", runner.hear)
    [recording] = recordings(60, timestamps=False)
    recording.samples[:] = 0.5
    [(_, result)] = runner.answer([recording])
    assert isinstance(result, dict)
    assert (result["windows"], result["finish_reason"]) == (3, reason)


def test_a_recording_without_speech_is_not_cut() -> None:
    [(_, result)] = OfGivenTokens(set()).answer(recordings(5))
    assert isinstance(result, dict)
    assert (result["text"], result["finish_reason"]) == ("", "stop")
